"""Supernet Shifting: training a supernet on the architectures that a search proposes (Zhang et al., CVPR 2024)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, greater_than, within
from lightning_nas.data.splits import derived_seed
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.supernets.unused_weights import UnusedWeightGuard


class Shifting:
    """Trains a supernet on every generation of a search before it is scored, so that it ranks where the search looks.

    The training images are those of the evaluator's data without the validation set. Every architecture of a generation
    gets ``steps`` batches of its own. With ``accumulate``, the mean loss over the whole generation makes one update,
    ``steps`` times, so that the order of the architectures does not matter, as the abstract of the paper says. Without,
    the architectures are trained one after the other with one update per batch, as in the released code. That code
    scores each architecture before the next one is trained; here all are scored at the end, with the same weights.

    References:
        1. Zhang, Wang, Qin, Yan: Boosting Order-Preserving and Transferability for Neural Architecture Search: a Joint
           Architecture Refined Search and Fine-tuning Approach, CVPR 2024, https://arxiv.org/abs/2403.11380

    Args:
        optimizer: Optimizer of the supernet's weights.
        steps: Batches per architecture and generation, at least 1. The default is that of the released code.
        accumulate: Whether a step is one update with the mean loss of the whole generation.
        batch_size: Images per batch, at least 2, because of batch normalization. The released code uses 150.
        label_smoothing: Label smoothing of the loss, in [0, 1).
        clip_norm: Largest norm of the gradients, greater than 0; null does not clip.
        frozen_body: Whether only the classifier is trained: a control that shows what training the body contributes.
        seed: Seed of the batches and their augmentation.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        shifting:
          class_path: Shifting
          init_args:
            optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.01, momentum: 0.9}}
            steps: 20
        ```
    """

    def __init__(
        self,
        optimizer: OptimizerCallable,
        *,
        steps: int = 20,
        accumulate: bool = True,
        batch_size: int = 64,
        label_smoothing: float = 0.1,
        clip_norm: float | None = 5.0,
        frozen_body: bool = False,
        seed: int = 0,
    ) -> None:
        at_least(1, steps=steps)
        at_least(2, batch_size=batch_size)
        within("[0, 1)", label_smoothing=label_smoothing)
        greater_than(0, clip_norm=clip_norm)
        self.make_optimizer = optimizer
        self.steps = steps
        self.accumulate = accumulate
        self.batch_size = batch_size
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.frozen_body = frozen_body
        self.seed = seed

    def optimizer(self, scores: SupernetEvaluator) -> Optimizer:
        """Make the optimizer of the supernet, and freeze what it does not train.

        Args:
            scores: The evaluator that holds the supernet.
        """
        loaded = scores.loaded
        names = loaded.classifier() if self.frozen_body else {name for name, _ in loaded.network.named_parameters()}
        for name, parameter in loaded.network.named_parameters():
            parameter.requires_grad_(name in names)
        return self.make_optimizer([p for name, p in loaded.network.named_parameters() if name in names])

    def train(
        self,
        scores: SupernetEvaluator,
        optimizer: Any,
        architectures: Sequence[Architecture],
        generation: int,
        backward: Callable[[Tensor], None] = Tensor.backward,
    ) -> float:
        """Train the supernet on the architectures of one generation.

        Args:
            scores: The evaluator that holds the supernet and the images.
            optimizer: The optimizer from ``optimizer``; Lightning may have wrapped it.
            architectures: The architectures of the generation.
            generation: A number that identifies the generation; its batches depend on it.
            backward: Computes the gradients of a loss, such as ``manual_backward`` of a task.

        Returns:
            The mean loss over all architectures and steps.
        """
        network, space = scores.loaded.network, scores.loaded.space
        plain = getattr(optimizer, "optimizer", optimizer)
        untouched = UnusedWeightGuard(network)
        network.train()
        total = torch.zeros((), device=scores.device)
        groups = [range(len(architectures))] if self.accumulate else [[i] for i in range(len(architectures))]
        for group in groups:
            for step in range(self.steps):
                optimizer.zero_grad()
                for place in group:
                    images, labels = self._batch(scores, generation, place, step)
                    logits = network(images, space.to_path(architectures[place]))
                    loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
                    backward(loss / len(group))
                    total += loss.detach()
                if self.clip_norm is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
                untouched.before_step(plain)
                optimizer.step()
                untouched.after_step(plain)
        scores.weights_changed()
        return float(total) / max(1, len(architectures) * self.steps)

    def _batch(self, scores: SupernetEvaluator, *draw: int) -> tuple[Tensor, Tensor]:
        """A batch of random augmented training images, which depends on the seed and these numbers alone."""
        data = scores.data
        seed = derived_seed(self.seed, "shifting", *draw)
        images = data.train_set
        chosen = torch.randint(len(images), (self.batch_size,), generator=torch.Generator().manual_seed(seed))
        batch: Any = images.__getitems__(chosen.tolist())
        batch = tuple(tensor.to(scores.device, non_blocking=True) for tensor in batch)
        return data.prepare(batch, torch.Generator(scores.device).manual_seed(seed))
