"""Scores of discrete architectures by a short training from scratch."""

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.architecture import Architecture
from lightning_nas.data.augmentation import Augmentation
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.sets import classes_of
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.metrics.cost import parameters
from lightning_nas.spaces.artifact import build_space

SCORED = 500
"""Images that batch statistics are taken over when a network is scored."""


class ShortTraining(Evaluator):
    """Trains every architecture briefly as an ordinary network, and scores it by its loss on the search half.

    SGD with Nesterov momentum 0.9, weight decay 5e-4, learning rate falling to 0 along a cosine, gradient norm clipped
    at 5. All architectures get the same seed and the same batches, so that scores differ by architecture alone. The
    score is taken with batch statistics on the whole search half in random order: after few steps running statistics
    are not worth much, and a batch sorted by class spoils them.

    In a search with rounds, such as by ``Refine``, each can have its own number of steps and of trainings, whose mean
    is the score; every round has fresh seeds, and its results do not compare with those of others.

    Objectives: ``loss`` (lower is better) and ``accuracy`` (a fraction). Cost: ``seconds``, ``parameters``.

    Args:
        data: Halves of a data set.
        steps: Optimizer steps, at least 1; a list has one number a round, the last one also for all that follow.
        repeats: Trainings of an architecture, at least 1, likewise.
        batch_size: Images a step.
        channels: Channels of the first cell.
        cells: Number of cells.
        image_size: Side that images are averaged down to; by default their own.
        learning_rate: At the first step.
        augmentations: Of the training images.
        seed: Of the weights and batches.
    """

    def __init__(
        self,
        data: HalvesDataModule,
        steps: int | list[int] = 80,
        repeats: int | list[int] = 1,
        batch_size: int = 32,
        channels: int = 8,
        cells: int = 5,
        image_size: int | None = None,
        learning_rate: float = 0.1,
        augmentations: list[Augmentation] | None = None,
        seed: int = 0,
    ) -> None:
        self.steps = [steps] if isinstance(steps, int) else list(steps)
        self.repeats = [repeats] if isinstance(repeats, int) else list(repeats)
        if min(self.steps, default=0) < 1 or min(self.repeats, default=0) < 1 or batch_size < 2:
            raise ConfigError(
                f"steps is {steps}, repeats {repeats} and batch_size {batch_size}; they must be at least 1, 1 and 2."
            )
        self.data = data
        self.batch_size = batch_size
        self.channels = channels
        self.cells = cells
        self.image_size = image_size
        self.learning_rate = learning_rate
        self.augmentations = augmentations or []
        self.seed = seed
        self.device = torch.device("cpu")
        self._halves: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare_data(self) -> None:
        """Download the images."""
        self.data.prepare_data()

    def to(self, device: torch.device) -> None:
        """Train there."""
        self.device = device
        self._halves.clear()

    def begin(self, round: int) -> None:
        """Train as this round says from now on."""
        self.version = round

    def _half(self, name: str) -> tuple[Tensor, Tensor]:
        """A whole half, shuffled once and resized."""
        if name not in self._halves:
            size = len(self.data.half(name))
            images, labels = self.data.fixed_batch(name, size, self.seed)
            if self.image_size is not None:
                images = F.adaptive_avg_pool2d(images, self.image_size)
            if name == "train" and len(images) < self.batch_size:
                raise DataError(
                    f"The {name} half has {len(images)} images, fewer than a batch of {self.batch_size}. "
                    "Use a smaller batch_size or more images."
                )
            # faster in this layout, on the CPU and with tensor cores; values are the same
            images = images.to(self.device, memory_format=torch.channels_last)
            self._halves[name] = (images, labels.to(self.device))
        return self._halves[name]

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Train and score; see the class."""
        return [self._evaluate(architecture) for architecture in architectures]

    def _evaluate(self, architecture: Architecture) -> Evaluation:
        start = time.perf_counter()
        repeats = self.repeats[min(self.version, len(self.repeats) - 1)]
        # a first round is as a search without rounds
        seeds = [
            derived_seed(self.seed, "round", self.version, i) if self.version or i else self.seed
            for i in range(repeats)
        ]
        networks = [self._trained(architecture, seed) for seed in seeds]
        scores = [self._score(network) for network in networks]
        objectives = {name: sum(each[name] for each in scores) / len(scores) for name in scores[0]}
        cost = {"seconds": time.perf_counter() - start, "parameters": float(parameters(networks[0]))}
        return Evaluation(objectives, cost)

    def _trained(self, architecture: Architecture, seed: int) -> nn.Module:
        steps = self.steps[min(self.version, len(self.steps) - 1)]
        images, labels = self._half("train")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_space(architecture.space).network(
                architecture,
                num_classes=self.data.num_classes,
                image_shape=tuple(images.shape[1:]),
                channels=self.channels,
                cells=self.cells,
            )
        network = network.to(images.device).to(memory_format=torch.channels_last)
        network.train()
        optimizer = torch.optim.SGD(
            network.parameters(), self.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(seed)
        # one generator where it can be one
        draws = generator if images.device.type == "cpu" else torch.Generator(images.device).manual_seed(seed)
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(order) < self.batch_size:
                order = torch.randperm(len(labels), generator=generator)
            batch, order = order[: self.batch_size], order[self.batch_size :]
            x = images[batch]
            for augmentation in self.augmentations:
                x = augmentation(x, draws)
            optimizer.zero_grad()
            F.cross_entropy(network(x), labels[batch]).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            scheduler.step()
        return network

    def _score(self, network: nn.Module) -> dict[str, float]:
        """Loss and accuracy on the search half, in random batches of at least half ``SCORED`` images."""
        images, labels = self._half("search")
        loss = hits = 0.0
        with torch.no_grad():
            chunks = max(1, round(len(labels) / SCORED))
            for x, y in zip(images.tensor_split(chunks), labels.tensor_split(chunks), strict=True):
                logits = network(x)
                loss += float(F.cross_entropy(logits, y, reduction="sum"))
                hits += float((logits.argmax(1) == classes_of(y)).sum())
        return {"loss": loss / len(labels), "accuracy": hits / len(labels)}
