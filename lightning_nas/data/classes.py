"""Batches in which every class has the same number of images, for dataset distillation."""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.loaders import ResumableLoader, set_epoch, whole
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed
from lightning_nas.data.wrapped import WrappedDataModule
from lightning_nas.errors import ConfigError, DataError


class ClassSampler(DistributedSampler[int]):
    """Indices of ``per_class`` random images of every class, again and again, drawn afresh every epoch.

    Batch k of all processes together is batch k of one process with their global batch size. ``DistributedSampler`` is
    the base because Lightning leaves it alone and tells it the epoch.

    Attributes:
        start: Images that the next pass leaves out at its beginning.

    Args:
        labels: int64 ``(n,)``.
        per_class: Images of a class, process and batch.
        batches: Batches an epoch.
        seed: Of the draws.
        world: Number of processes.
        rank: This process.
    """

    start = 0

    def __init__(self, labels: Tensor, per_class: int, batches: int, seed: int, world: int, rank: int) -> None:
        super().__init__(labels, num_replicas=world, rank=rank, seed=seed)  # type: ignore[arg-type]  # anything with a length
        self.classes = [(labels == c).nonzero().flatten() for c in range(int(labels.max()) + 1)]
        self.per_class = per_class
        self.batches = batches

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        return islice(self._draws(), start, None)

    def _draws(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "classes", self.epoch))
        drawn = self.per_class * self.num_replicas
        for _ in range(self.batches):
            for images in self.classes:
                chosen = images[torch.randperm(len(images), generator=generator)[:drawn]]
                yield from chosen[self.rank :: self.num_replicas].tolist()

    def __len__(self) -> int:
        return self.batches * self.per_class * len(self.classes)


class ClassBalancedDataModule(WrappedDataModule):
    """Serve the training images of another data module in batches of ``images_per_class`` images of every class.

    Args:
        data: Where the images come from, with the seed of the draws; neither its batch size nor its augmentations
            matter here.
        images_per_class: Images of a class, process and batch, at least 1; fewer where the smallest class has not
            enough of them for all processes.
        steps_per_epoch: Batches an epoch, at least 1.
    """

    def __init__(self, data: ImageDataModule, images_per_class: int = 256, steps_per_epoch: int = 100) -> None:
        super().__init__(data)
        if images_per_class < 1 or steps_per_epoch < 1:
            raise ConfigError(
                f"images_per_class is {images_per_class} and steps_per_epoch {steps_per_epoch}; both must be "
                "at least 1."
            )
        self.images_per_class = images_per_class
        self.steps_per_epoch = steps_per_epoch

    @cached_property
    def _training(self) -> Batch:
        images = self.data.train_set
        missing = [c for c in range(self.num_classes) if not int((images.labels == c).sum())]
        if missing:
            raise DataError(f"The classes {missing} have no training image. Add some, or leave the classes out.")
        return self.data.prepare(images.__getitems__(list(range(len(images)))))

    def training_images(self) -> Batch:
        """All training images, normalised, ``(n, channels, height, width)``, and their labels."""
        return self._training

    def train_dataloader(self) -> ResumableLoader:
        """Class-balanced batches.

        Raises:
            DataError: A class has fewer images than there are processes.
        """
        images = self.data.train_set
        labels = images.labels.cpu()
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        smallest = int(torch.bincount(labels).min())
        per_class = min(self.images_per_class, smallest // world)
        if not per_class:
            raise DataError(
                f"{world} processes need as many training images of every class; the smallest class has {smallest}. "
                "Use fewer devices, or more images."
            )
        sampler = ClassSampler(labels, per_class, self.steps_per_epoch, self.data.seed, world, rank)
        if self.trainer is not None:
            set_epoch(sampler, self.trainer)
        return ResumableLoader(
            images,
            batch_size=per_class * self.num_classes,
            sampler=sampler,
            collate_fn=whole,
            # without one of its own, each epoch would draw from the global generator
            generator=torch.Generator().manual_seed(self.data.seed),
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise, and don't augment."""
        return self.data.prepare(batch)
