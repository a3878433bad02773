"""Batches with equally many images of every class, for dataset distillation."""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_nas.checks import at_least
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.loaders import ResumableLoader, set_epoch, whole
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed
from lightning_nas.data.wrapped import WrappedDataModule
from lightning_nas.errors import DataError


class ClassSampler(DistributedSampler[int]):
    """Draws ``per_class`` random images of every class for each batch, with new draws in every epoch.

    Batch k of all processes together is batch k of one process with their global batch size. ``DistributedSampler`` is
    the base class because Lightning leaves it alone and tells it the epoch.

    Args:
        labels: int64 ``(n,)``.
        per_class: Images per class, batch and process.
        batches: Batches per epoch.
        seed: Seed of the draws.
        world: Number of processes.
        rank: Index of this process.

    Attributes:
        start: Number of images that the next pass skips.
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
    """Serves training images in batches of ``images_per_class`` images of every class, as ``DistillTask`` needs them.

    Images are normalized but not augmented: a distillation augments real and synthetic images alike itself. There are
    no validation and test images.

    Args:
        data: Data module that loads the images, with the seed of the draws. Neither its batch size nor its
            augmentations matter here.
        images_per_class: Images per class, batch and process, at least 1 (the papers on gradient and distribution
            matching: 256). If the smallest class has too few images for all processes, all classes get fewer.
        steps_per_epoch: Batches per epoch, at least 1. ``DistillTask`` compares and writes the proxy after every epoch.

    Raises:
        ConfigError: An argument is below 1.

    Example:
        ```yaml
        data:
          class_path: ClassBalancedDataModule
          init_args:
            images_per_class: 128
            steps_per_epoch: 50
            data:
              class_path: CIFAR10DataModule
        ```
    """

    def __init__(self, data: ImageDataModule, *, images_per_class: int = 256, steps_per_epoch: int = 100) -> None:
        super().__init__(data)
        at_least(1, images_per_class=images_per_class, steps_per_epoch=steps_per_epoch)
        self.images_per_class = images_per_class
        self.steps_per_epoch = steps_per_epoch

    @cached_property
    def _training(self) -> Batch:
        images = self.data.train_set
        return self.data.prepare(images.__getitems__(list(range(len(images)))))

    def training_images(self) -> Batch:
        """Return all training images, normalized, ``(n, channels, height, width)``, and their labels ``(n,)``."""
        return self._training

    def _per_class(self, labels: Tensor, processes: int) -> int:
        """Images per class, batch and process.

        Raises:
            DataError: A class has fewer images than there are processes.
        """
        smallest = int(torch.bincount(labels).min())
        per_class = min(self.images_per_class, smallest // processes)
        if not per_class:
            raise DataError(
                f"{processes} processes need as many training images of every class; the smallest class has "
                f"{smallest}. Use fewer devices, or more images."
            )
        return per_class

    def check(self, processes: int = 1, test: bool = False) -> bool:
        """Check that every class has enough images; see ``ImageDataModule.check``. There is no validation set."""
        super().check(processes, test)
        self._per_class(self.data.list_parts()[0].labels, processes)
        return False

    def train_dataloader(self) -> ResumableLoader:
        """Return a loader of class-balanced batches.

        Raises:
            DataError: A class has fewer images than there are processes.
        """
        images = self.data.train_set
        labels = images.labels.cpu()
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        per_class = self._per_class(labels, world)
        sampler = ClassSampler(labels, per_class, self.steps_per_epoch, self.data.seed, world, rank)
        if self.trainer is not None:
            set_epoch(sampler, self.trainer)
        return ResumableLoader(
            images,
            batch_size=per_class * self.num_classes,
            sampler=sampler,
            collate_fn=whole,
            # without its own generator, every epoch would draw from the global one
            generator=torch.Generator().manual_seed(self.data.seed),
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalize a batch without augmenting it."""
        return self.data.prepare(batch)
