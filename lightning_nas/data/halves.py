"""The two halves of the training images that bi-level search needs."""

from functools import cached_property, partial
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import Subset

from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.loaders import EpochSampler, loader
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed, halves
from lightning_nas.data.wrapped import WrappedDataModule
from lightning_nas.errors import ConfigError, DataError


class HalvesDataModule(WrappedDataModule):
    """Split training images: the train half is for the weights, the search half for the alphas.

    A training batch is ``{"train": (images, labels), "search": (images, labels)}``. Both halves hold every
    class in its share, and both are augmented, as in DARTS. With a ``search_fraction`` other than 0.5 the
    shorter half starts again, in the same order, until the longer one ends. Validation and test are those of
    ``data``.

    Args:
        data: Where the images come from. Its ``batch_size`` is that of validation and test.
        batch_size: Images a process, batch and half, at least 1.
        search_fraction: Part of the training images in the search half, between 0 and 1. At 0.5 both halves
            are equally long, and an image left over is dropped.
        split_seed: Of the split, equal on all processes.
    """

    def __init__(
        self, data: ImageDataModule, batch_size: int = 64, search_fraction: float = 0.5, split_seed: int = 0
    ) -> None:
        super().__init__(data)
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
        if not 0 < search_fraction < 1:
            raise ConfigError(f"search_fraction is {search_fraction}; it must be between 0 and 1.")
        self.batch_size = batch_size
        self.search_fraction = search_fraction
        self.split_seed = split_seed

    @cached_property
    def _halves(self) -> dict[str, Subset[Batch]]:
        images = self.data.train_set
        train, search = halves(images.labels.cpu(), images.groups, self.search_fraction, self.split_seed)
        return {"train": Subset(images, train.tolist()), "search": Subset(images, search.tolist())}

    def half(self, name: str) -> Subset[Batch]:
        """The images of a half, as ``data`` loaded them.

        Args:
            name: ``train`` or ``search``.

        Raises:
            ConfigError: Another name.
            DataError: The images cannot be split.
        """
        if name not in ("train", "search"):
            raise ConfigError(f"There is no half {name!r}; expected 'train' or 'search'.")
        return self._halves[name]

    def fixed_batch(self, half: str, size: int, seed: int) -> Batch:
        """Random images of a half, normalised but not augmented, to score networks on.

        Args:
            half: ``train`` or ``search``.
            size: How many, at least 1.
            seed: Of the choice; the same arguments give the same batch.

        Returns:
            Images ``(size, channels, height, width)`` and labels ``(size,)``, on the CPU unless a trainer has
            moved the set to its GPU.

        Raises:
            ConfigError: No such half, or ``size`` is below 1.
            DataError: The half has fewer images.
        """
        images = self.half(half)
        if size < 1:
            raise ConfigError(f"The size of a fixed batch is {size}; it must be at least 1.")
        if size > len(images):
            raise DataError(
                f"A fixed batch of {size} images is asked for, but the {half} half has {len(images)}. "
                "Ask for fewer, or use more images."
            )
        generator = torch.Generator().manual_seed(derived_seed(seed, "fixed", half))
        chosen = torch.randperm(len(images), generator=generator)[:size].tolist()
        batch: Any = images.__getitems__(chosen)  # typed as if it gave a list
        return self.data.prepare(batch)

    def setup(self, stage: str) -> None:
        """Load the training images, and split them for a fit."""
        super().setup(stage)
        if stage == "fit":
            _ = self._halves

    def train_dataloader(self) -> CombinedLoader:
        """Both halves, each in its own new order every epoch, whole batches only.

        Raises:
            DataError: A half has not one whole batch.
        """
        loaders = {}
        for name, half in self._halves.items():
            seed = derived_seed(self.data.seed, name)
            loaders[name] = loader(
                half,
                self.batch_size,
                self.trainer,
                seed=seed,
                shuffle=True,
                drop_last=True,
                num_workers=self.data.num_workers,
                name=f"{name} half",
                make_sampler=partial(self.sampler, half, seed=seed),
            )
        return CombinedLoader(loaders, "max_size_cycle")

    def sampler(self, half: Subset[Batch], world: int, rank: int, seed: int) -> EpochSampler:
        """What draws a half's images: each once an epoch.

        Args:
            half: The images.
            world: Number of processes.
            rank: This process.
            seed: Of the order.
        """
        return EpochSampler(half, world, rank, shuffle=True, seed=seed, drop_last=True)

    def val_dataloader(self) -> Any:
        """The validation set of ``data``. A fit without one does not ask for it."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> Any:
        """The test images of ``data``."""
        return self.data.test_dataloader()

    def predict_dataloader(self) -> Any:
        """The test images of ``data``, in their order."""
        return self.data.predict_dataloader()
