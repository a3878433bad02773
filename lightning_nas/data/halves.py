"""The two halves of the training images that bi-level search needs."""

from functools import cached_property, partial
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import Subset

from lightning_nas.checks import at_least, one_of, within
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.loaders import EpochSampler, check_whole_batch, loader
from lightning_nas.data.sets import Batch, LabelledImages
from lightning_nas.data.splits import derived_seed, halves
from lightning_nas.data.wrapped import WrappedDataModule
from lightning_nas.errors import DataError


class HalvesDataModule(WrappedDataModule):
    """Splits training images into a train half, which trains the weights, and a search half, which trains the alphas.

    A training batch is ``{"train": (images, labels), "search": (images, labels)}``. Every class has the same share in
    both halves, and both are augmented, as in DARTS. With a ``search_fraction`` other than 0.5, the shorter half starts
    again, in the same order, until the longer one ends. Validation and test images are those of ``data``.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Args:
        data: Data module that loads the images. Its ``batch_size`` is that of validation and test.
        batch_size: Images per batch, half and process, at least 1 (DARTS: 64).
        search_fraction: Fraction of the training images in the search half, between 0 and 1 (DARTS: 0.5). At 0.5, both
            halves have the same length and surplus images are left out. By default, the search half is the validation
            set of ``data`` if it comes with one, such as a folder ``val``, and the train half all training images;
            otherwise it is 0.5.
        split_seed: Seed of the split, the same on all processes.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        data:
          class_path: HalvesDataModule
          init_args:
            batch_size: 64
            data:
              class_path: CIFAR10DataModule
              init_args:
                augmentations:
                  - class_path: RandomCrop
                  - class_path: RandomFlip
        ```
    """

    def __init__(
        self, data: ImageDataModule, *, batch_size: int = 64, search_fraction: float | None = None, split_seed: int = 0
    ) -> None:
        super().__init__(data)
        at_least(1, batch_size=batch_size)
        within("(0, 1)", search_fraction=search_fraction)
        self.batch_size = batch_size
        self.search_fraction = search_fraction
        self.split_seed = split_seed

    @property
    def split(self) -> dict[str, Any]:
        """The arguments that decide which images are for what; see ``ImageDataModule.split``."""
        return {**self.data.split, "search_fraction": self.search_fraction, "search_split_seed": self.split_seed}

    @property
    def searches_validation(self) -> bool:
        """Whether the search half is the validation set that comes with ``data``."""
        return self.search_fraction is None and self.data.list_validation() is not None

    @cached_property
    def _halves(self) -> dict[str, Subset[Batch]]:
        images = self.data.train_set
        if self.searches_validation:
            return self._given(images, self.data.validation_set)
        train, search = self._split(images)
        return {"train": Subset(images, train.tolist()), "search": Subset(images, search.tolist())}

    def _split(self, images: LabelledImages) -> tuple[Tensor, Tensor]:
        """Indices of both halves of training images."""
        fraction = 0.5 if self.search_fraction is None else self.search_fraction
        return halves(images.labels.cpu(), images.groups, fraction, self.split_seed)

    def _given(self, train: LabelledImages, search: LabelledImages) -> dict[str, Subset[Batch]]:
        """Whole sets as the halves.

        Raises:
            DataError: The search half lacks a class.
        """
        missing = sorted(set(range(len(train.class_names))) - set(search.labels.tolist()))
        if missing:
            names = [train.class_names[label] for label in missing]
            raise DataError(
                f"The validation images, which are the search half, lack the classes {names}. Add images of them, or "
                "set search_fraction, such as to 0.5, to split the training images instead."
            )
        return {"train": Subset(train, range(len(train))), "search": Subset(search, range(len(search)))}

    def check(self, processes: int = 1, test: bool = False) -> bool:
        """Check that both halves have a batch for every process; see ``ImageDataModule.check``."""
        if test:
            self.data.check_test()
        for name, size in self.half_sizes().items():
            check_whole_batch(f"{name} half", size, size // processes, processes, self.batch_size)
        return self.data.list_parts()[1] is not None

    def half_sizes(self) -> dict[str, int]:
        """Count the images of both halves, without their pixels where that is possible.

        Raises:
            DataError: The images are missing, or cannot be split.
        """
        images, validation = self.data.list_parts()
        if self.searches_validation and validation is not None:
            return {name: len(half) for name, half in self._given(images, validation).items()}
        return dict(zip(("train", "search"), map(len, self._split(images)), strict=True))

    def half(self, name: str) -> Subset[Batch]:
        """Return the images of a half, as ``data`` loaded them.

        Args:
            name: ``train`` or ``search``.

        Raises:
            ConfigError: The name is another one.
            DataError: The images cannot be split.
        """
        one_of(("train", "search"), name=name)
        return self._halves[name]

    def class_counts(self) -> Tensor:
        """Count the images of every class in the train half, ``(classes,)``."""
        half = self.half("train")
        assert isinstance(half.dataset, LabelledImages)
        return half.dataset.class_counts(torch.as_tensor(list(half.indices)))

    def fixed_batch(self, half: str, size: int, seed: int) -> Batch:
        """Draw random images of a half, normalized but not augmented, on which networks can be scored.

        Args:
            half: ``train`` or ``search``.
            size: Number of images, at least 1.
            seed: Seed of the choice. The same arguments give the same batch.

        Returns:
            Images ``(size, channels, height, width)`` and labels ``(size,)``, on the CPU unless a trainer has moved
            the images to its GPU.

        Raises:
            ConfigError: There is no such half, or ``size`` is below 1.
            DataError: The half has fewer images.
        """
        images = self.half(half)
        at_least(1, size=size)
        if size > len(images):
            raise DataError(
                f"A fixed batch of {size} images is asked for, but the {half} half has {len(images)}. "
                "Ask for fewer, or use more images."
            )
        generator = torch.Generator().manual_seed(derived_seed(seed, "fixed", half))
        chosen = torch.randperm(len(images), generator=generator)[:size].tolist()
        batch: Any = images.__getitems__(chosen)  # typed as if it returned a list
        return self.data.prepare(batch)

    def setup(self, stage: str) -> None:
        """Load the training images, and split them for a fit."""
        super().setup(stage)
        if stage == "fit":
            _ = self._halves

    def train_dataloader(self) -> CombinedLoader:
        """Return a loader of both halves, each in its own new order every epoch, whole batches only.

        Raises:
            DataError: A half has no whole batch.
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
        """Make the sampler of a half. By default it visits each image once per epoch.

        Args:
            half: The images.
            world: Number of processes.
            rank: Index of this process.
            seed: Seed of the order.
        """
        return EpochSampler(half, world, rank, shuffle=True, seed=seed, drop_last=True)

    def val_dataloader(self) -> Any:
        """Return a loader of the validation set of ``data``. A fit without a validation set does not ask for it."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> Any:
        """Return a loader of the test images of ``data``."""
        return self.data.test_dataloader()

    def predict_dataloader(self) -> Any:
        """Return a loader of the test images of ``data``, in their order."""
        return self.data.predict_dataloader()
