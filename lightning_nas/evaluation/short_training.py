"""Scores of architectures after a short training from scratch."""

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.data.augmentation import Augmentation
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.sets import classes_of
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.metrics.cost import parameters
from lightning_nas.spaces.artifact import build_space
from lightning_nas.spaces.sized import build_network

SCORED = 500
"""Rough number of images per batch, over which batch statistics are taken, when a network is scored."""


class ShortTraining(Evaluator):
    """Trains every architecture briefly from scratch, and scores it by its loss on the search half.

    SGD with Nesterov momentum 0.9, weight decay 5e-4 and gradients clipped to norm 5; the learning rate falls to 0
    along a cosine. All architectures get the same seed and the same batches, so that only the architecture makes scores
    differ. Scores are taken over the whole search half, in random order, with batch statistics: after few steps the
    running statistics are far off, and batches sorted by class would spoil the batch statistics.

    In a search with rounds, such as one by ``Refine``, each round can have its own number of steps and of trainings,
    whose mean is the score. Every round draws new seeds, and its scores are not comparable with those of other rounds.

    Two options make a training cheaper or its ranks better. ``online`` takes the mean loss of the batches in the last
    half of the steps, before each is learned, instead of a pass over the search half. ``classes`` trains on a few
    random classes per seed, which all architectures share: where there are many classes, networks cannot tell them
    apart after so few steps.

    Objectives: ``loss`` (lower is better) and ``accuracy`` (a fraction). Costs: ``seconds`` and ``parameters``.

    Args:
        data: The data set, in two halves: networks are trained on the train half and scored on the search half.
        steps: Optimizer steps, at least 1; a list gives one number per round, the last one also for all later rounds.
        repeats: Trainings per architecture, at least 1; a list gives one number per round, like ``steps``.
        batch_size: Images per step, at least 2, because of batch normalization.
        channels: Channels of the first cell.
        cells: Number of cells.
        image_size: Side length in pixels that images are averaged to; null leaves them unchanged.
        learning_rate: Learning rate of the first step.
        augmentations: Augmentations of the training images; none by default.
        seed: Seed of the weights, the batches, the augmentations and the choice of classes.
        online: Whether scores are those of the training batches in the last half of the steps. The search half is not
            used then.
        classes: Number of random classes that each training is restricted to, at least 2; null, the default, trains
            on all.

    Raises:
        ConfigError: A number is too small.

    Example:
        ```yaml
        evaluator:
          class_path: ShortTraining
          init_args:
            data: {class_path: HalvesDataModule, init_args: {data: DigitsDataModule}}
            steps: [80, 320]
            repeats: [1, 3]
        ```
    """

    def __init__(
        self,
        data: HalvesDataModule,
        *,
        steps: int | list[int] = 80,
        repeats: int | list[int] = 1,
        batch_size: int = 32,
        channels: int = 8,
        cells: int = 5,
        image_size: int | None = None,
        learning_rate: float = 0.1,
        augmentations: list[Augmentation] | None = None,
        seed: int = 0,
        online: bool = False,
        classes: int | None = None,
    ) -> None:
        self.steps = [steps] if isinstance(steps, int) else list(steps)
        self.repeats = [repeats] if isinstance(repeats, int) else list(repeats)
        at_least(2, batch_size=batch_size)
        at_least(1, channels=channels, cells=cells, image_size=image_size)
        at_least(2, classes=classes)
        for name, values in (("steps", self.steps), ("repeats", self.repeats)):
            if min(values, default=0) < 1:
                raise ConfigError(f"{name} is {values}; every round needs at least 1.")
        self.data = data
        self.batch_size = batch_size
        self.channels = channels
        self.cells = cells
        self.image_size = image_size
        self.learning_rate = learning_rate
        self.augmentations = augmentations or []
        self.seed = seed
        self.online = online
        self.classes = classes
        self.device = torch.device("cpu")
        self._halves: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare_data(self) -> None:
        """Download the images."""
        self.data.prepare_data()

    def data_modules(self) -> list[Any]:
        """See ``Evaluator.data_modules``."""
        return [self.data]

    def check(self) -> None:
        """Refuse a train half without a batch; see ``Evaluator.check``."""
        self._check_batch(self.data.half_sizes()["train"])

    def _check_batch(self, images: int) -> None:
        """Refuse a train half of fewer images than a batch."""
        if images < self.batch_size:
            raise DataError(
                f"The train half has {images} images, fewer than a batch of {self.batch_size}. Use a smaller "
                "batch_size or more images."
            )

    def to(self, device: torch.device) -> None:
        """Train on this device from now on."""
        self.device = device
        self._halves.clear()

    def begin(self, round: int) -> None:
        """Use the number of steps and of trainings of this round from now on."""
        self.version = round

    def _half(self, name: str) -> tuple[Tensor, Tensor]:
        """Images and labels of a whole half, shuffled once and resized."""
        if name not in self._halves:
            size = len(self.data.half(name))
            images, labels = self.data.fixed_batch(name, size, self.seed)
            if self.image_size is not None:
                images = F.adaptive_avg_pool2d(images, self.image_size)
            if name == "train":
                self._check_batch(len(images))
            # this layout is faster on the CPU and with tensor cores, and does not change values
            images = images.to(self.device, memory_format=torch.channels_last)
            self._halves[name] = (images, labels.to(self.device))
        return self._halves[name]

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Train and score every architecture; see ``Evaluator.evaluate``.

        Raises:
            DataError: The train half has fewer images than a batch.
        """
        return [self._evaluate(architecture) for architecture in architectures]

    def _evaluate(self, architecture: Architecture) -> Evaluation:
        start = time.perf_counter()
        repeats = self.repeats[min(self.version, len(self.repeats) - 1)]
        # the first training of round 0 uses the seed itself, as a search without rounds does
        seeds = [
            derived_seed(self.seed, "round", self.version, i) if self.version or i else self.seed
            for i in range(repeats)
        ]
        trained = [self._train(architecture, seed) for seed in seeds]
        networks = [network for network, _ in trained]
        scores = [
            online if self.online else self._score(network, seed)
            for (network, online), seed in zip(trained, seeds, strict=True)
        ]
        objectives = {name: sum(each[name] for each in scores) / len(scores) for name in scores[0]}
        cost = {"seconds": time.perf_counter() - start, "parameters": float(parameters(networks[0]))}
        return Evaluation(objectives, cost)

    def _images(self, name: str, seed: int) -> tuple[Tensor, Tensor, int]:
        """Images, labels and number of classes that a training with this seed uses of a half."""
        images, labels = self._half(name)
        number = self.data.num_classes
        if self.classes is None or self.classes >= number:
            return images, labels, number
        if labels.ndim != 1:
            raise ConfigError(
                "classes restricts trainings to some classes, but the labels are probabilities over all of them. Use "
                "data with hard labels, or classes: null."
            )
        generator = torch.Generator().manual_seed(derived_seed(seed, "classes"))
        chosen = torch.randperm(number, generator=generator)[: self.classes].sort().values.to(labels.device)
        kept = torch.isin(labels, chosen)
        if not bool(kept.any()) or (name == "train" and int(kept.sum()) < self.batch_size):
            raise DataError(
                f"{self.classes} of {number} classes have {int(kept.sum())} images in the {name} half, fewer than a "
                f"batch of {self.batch_size}. Use more classes, a smaller batch_size or more images."
            )
        return images[kept], torch.searchsorted(chosen, labels[kept]), self.classes

    def train(self, architecture: Architecture, seed: int) -> nn.Module:
        """Train a network of an architecture, with as many steps as the current round has.

        Args:
            architecture: The architecture.
            seed: Seed of the weights, the batches, the augmentations and the choice of classes.
        """
        return self._train(architecture, seed)[0]

    def _train(self, architecture: Architecture, seed: int) -> tuple[nn.Module, dict[str, float]]:
        """The trained network, and its mean loss and accuracy on the batches of the last half of the steps."""
        steps = self.steps[min(self.version, len(self.steps) - 1)]
        images, labels, classes = self._images("train", seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_network(
                build_space(architecture.space),
                architecture,
                num_classes=classes,
                image_shape=tuple(images.shape[1:]),
                channels=self.channels,
                cells=self.cells,
            )
        network = network.to(images.device).to(memory_format=torch.channels_last)
        network.train()
        optimizer = torch.optim.SGD(
            network.parameters(),
            self.learning_rate,
            momentum=0.9,
            weight_decay=5e-4,
            nesterov=True,
            fused=images.is_cuda or None,  # one kernel for all weights
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(seed)
        # augmentations need a generator of their own device; on the CPU one generator serves all
        draws = generator if images.device.type == "cpu" else torch.Generator(images.device).manual_seed(seed)
        order = torch.empty(0, dtype=torch.long, device=images.device)
        losses, hits = [], []
        for step in range(steps):
            if len(order) < self.batch_size:
                order = torch.randperm(len(labels), generator=generator).to(images.device, non_blocking=True)
            batch, order = order[: self.batch_size], order[self.batch_size :]
            x, y = images[batch], labels[batch]
            for augmentation in self.augmentations:
                x = augmentation(x, draws)
            optimizer.zero_grad()
            logits = network(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            scheduler.step()
            if step >= steps // 2:
                losses.append(loss.detach())
                hits.append((logits.detach().argmax(1) == classes_of(y)).float().mean())
        return network, {"loss": float(torch.stack(losses).mean()), "accuracy": float(torch.stack(hits).mean())}

    def score(self, network: nn.Module) -> dict[str, float]:
        """Loss and accuracy of a network of all classes in training mode on the search half.

        The batches have between half and 1.5 times ``SCORED`` images, if there are as many.

        Args:
            network: The network.
        """
        return _scored(network, *self._half("search"))

    def _score(self, network: nn.Module, seed: int) -> dict[str, float]:
        images, labels, _ = self._images("search", seed)
        return _scored(network, images, labels)


def _scored(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    losses, hits = [], []
    with torch.no_grad():
        chunks = max(1, round(len(labels) / SCORED))
        for x, y in zip(images.tensor_split(chunks), labels.tensor_split(chunks), strict=True):
            logits = network(x)
            losses.append(F.cross_entropy(logits, y, reduction="sum"))
            hits.append((logits.argmax(1) == classes_of(y)).sum())
    # numbers are read once, at the end, because every look waits for the device
    loss, correct = sum(torch.stack(losses).tolist()), sum(torch.stack(hits).tolist())
    return {"loss": loss / len(labels), "accuracy": correct / len(labels)}
