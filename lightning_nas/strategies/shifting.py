"""Supernet Shifting: a search that trains the supernet on the architectures that it looks at."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.supernets.unused_weights import UnusedWeightGuard


class Shifting:
    """Trains a supernet a little on every generation of a search, so that it ranks where the search looks.

    Training images are those of the scores' data without its validation set. Every architecture of a generation sees
    ``steps`` batches of its own. With ``accumulate`` their mean loss over the whole generation makes one update,
    ``steps`` times (the paper's abstract), so that the order of the architectures does not matter; without, they are
    trained one after the other with an update a batch (the released code, which also scores each before the next is
    trained; here all are scored at the end, by the same weights).

    References:
        1. Zhang, Wang, Qin, Yan: Boosting Order-Preserving and Transferability for Neural Architecture Search: a Joint
           Architecture Refined Search and Fine-tuning Approach, CVPR 2024, https://arxiv.org/abs/2403.11380

    Args:
        optimizer: Of the weights.
        steps: Batches an architecture and generation, at least 1 (the released code: 20).
        accumulate: Whether a generation makes one update a step.
        batch_size: Images of a batch, at least 2 (the released code: 150).
        label_smoothing: Of the loss.
        clip_norm: Most that the gradient's norm may be; any if null.
        frozen_body: Whether only the classifier is trained, the control that shows what the body's training is worth.
        seed: Of the batches and their augmentation.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable,
        steps: int = 20,
        accumulate: bool = True,
        batch_size: int = 64,
        label_smoothing: float = 0.1,
        clip_norm: float | None = 5.0,
        frozen_body: bool = False,
        seed: int = 0,
    ) -> None:
        if steps < 1 or batch_size < 2 or not 0 <= label_smoothing < 1 or (clip_norm is not None and clip_norm <= 0):
            raise ConfigError(
                f"steps is {steps}, batch_size {batch_size}, label_smoothing {label_smoothing} and clip_norm "
                f"{clip_norm}; expected are at least 1, at least 2, from 0 to below 1, and above 0 or null."
            )
        self.make_optimizer = optimizer
        self.steps = steps
        self.accumulate = accumulate
        self.batch_size = batch_size
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.frozen_body = frozen_body
        self.seed = seed

    def optimizer(self, scores: SupernetEvaluator) -> Optimizer:
        """The optimizer of what is trained."""
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
        """Train on one generation.

        Args:
            scores: Whose supernet and images.
            optimizer: Of it.
            architectures: Of the generation.
            generation: Its number, which decides on the batches.
            backward: Such as a task's ``manual_backward``.

        Returns:
            The mean loss.
        """
        network, space = scores.loaded.network, scores.loaded.space
        plain = getattr(optimizer, "optimizer", optimizer)
        untouched = UnusedWeightGuard(network)
        network.train()
        total = 0.0
        groups = [range(len(architectures))] if self.accumulate else [[i] for i in range(len(architectures))]
        for group in groups:
            for step in range(self.steps):
                optimizer.zero_grad()
                for place in group:
                    images, labels = self._batch(scores, generation, place, step)
                    logits = network(images, space.to_path(architectures[place]))
                    loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
                    backward(loss / len(group))
                    total += float(loss.detach())
                if self.clip_norm is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
                untouched.before_step(plain)
                optimizer.step()
                untouched.after_step(plain)
        scores.weights_changed()
        return total / max(1, len(architectures) * self.steps)

    def _batch(self, scores: SupernetEvaluator, *draw: int) -> tuple[Tensor, Tensor]:
        """Random training images, augmented; the same numbers give the same ones."""
        data = scores.data
        seed = derived_seed(self.seed, "shifting", *draw)
        images = data.train_set
        chosen = torch.randint(len(images), (self.batch_size,), generator=torch.Generator().manual_seed(seed))
        batch: Any = images.__getitems__(chosen.tolist())
        batch = tuple(tensor.to(scores.device) for tensor in batch)
        return data.prepare(batch, torch.Generator(scores.device).manual_seed(seed))
