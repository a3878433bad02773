"""Distilled images: a proxy on disk in place of the data that it stands for."""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Subset

from lightning_nas.data.augmentation import Augmentation
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.loaders import EpochSampler
from lightning_nas.data.sets import Batch, ImageSet, LabelledImages
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, DataError


class SoftImageSet(ImageSet):
    """Images whose batches carry soft labels, ``(batch, classes)``.

    Args:
        images: As for ``ImageSet``.
        labels: The class that each image stands for, ``(n,)``.
        class_names: Names by label.
        groups: int64 ``(n,)``.
        targets: Soft labels, ``(n, classes)``.
        source: What the images are, for error messages.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        class_names: list[str],
        groups: Tensor,
        targets: Tensor,
        source: str = "the image set",
    ) -> None:
        super().__init__(images, labels, class_names, groups, source)
        self.targets = targets

    def __getitems__(self, indices: list[int]) -> Batch:
        """Images, and soft labels ``(batch, classes)``."""
        index = torch.as_tensor(indices, device=self.images.device)
        return self.images[index], self.targets[index]

    def select(self, indices: Tensor) -> Self:
        """Copy the images at ``indices``, in that order."""
        assert self.groups is not None
        images, labels, groups = (t[indices] for t in (self.images, self.labels, self.groups))
        chosen = object.__new__(type(self))
        SoftImageSet.__init__(chosen, images, labels, self.class_names, groups, self.targets[indices])
        return chosen

    def to(self, device: torch.device) -> Self:
        """Move images and labels."""
        self.targets = self.targets.to(device)
        return super().to(device)


class GroupSampler(EpochSampler):
    """``per_group`` random images of every group, drawn afresh every epoch, in random order.

    Args:
        groups: int64 ``(n,)``, of the images that are drawn from.
        per_group: Images of a group and epoch; all of a smaller group.
        world: Number of processes.
        rank: This process.
        seed: Of the draws and of the order.
    """

    def __init__(self, groups: Tensor, per_group: int, world: int, rank: int, seed: int) -> None:
        units = torch.unique(groups)
        self.members = [(groups == unit).nonzero().flatten() for unit in units]
        self.per_group = per_group
        count = sum(min(per_group, len(members)) for members in self.members)
        super().__init__(range(count), world, rank, shuffle=True, seed=seed, drop_last=True)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "groups", self.epoch))
        drawn = torch.cat([m[torch.randperm(len(m), generator=generator)[: self.per_group]] for m in self.members])
        return islice((int(drawn[place]) for place in super().__iter__()), start, None)


class ProxyDataModule(ImageDataModule):
    """The images of a proxy, which are normalised already; mean and deviation are those of its source.

    Labels are soft where the proxy's are: ``(batch, classes)``. Augmentations that pad pad with the mean, not with
    black.

    Attributes:
        inputs: The proxy's files, by the kind of artifact.
        info: What ``proxy.json`` says of it, once it is read.

    Args:
        proxy_path: Path of ``proxy.safetensors``, with ``proxy.json`` beside it.
        batch_size: Images a process and batch, at least 1.
        augmentations: Random changes of training images, in order; none if null.
        seed: Of the order and of the augmentations.
        test: Real images whose test set is to be tested on, normalised as the proxy's source was; none if null.
    """

    def __init__(
        self,
        proxy_path: str,
        batch_size: int = 64,
        augmentations: list[Augmentation] | None = None,
        seed: int = 0,
        test: ImageDataModule | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, augmentations=augmentations, seed=seed)
        self.proxy_path = proxy_path
        self.test = test
        self.inputs = {"proxy": [Path(proxy_path), Path(proxy_path).with_suffix(".json")]}
        self.info: dict[str, Any] = {}

    def prepare_data(self) -> None:
        """Download the test images, in one process of every machine."""
        if self.test is not None:
            self.test.prepare_data()

    def load_train(self) -> ImageSet:
        """Read the proxy."""
        from lightning_nas.distill.base import Proxy

        proxy = Proxy.load(self.proxy_path)
        made = proxy.synthetic
        if not bool(torch.isfinite(made.images).all()):
            raise DataError(
                f"{self.proxy_path} has images that are not finite. Distill again, with a lower learning rate."
            )
        stored = proxy.scheme.stored_bytes
        rank_zero_info(f"{self.proxy_path}: {len(made.labels):,} images made of {stored:,} stored bytes")
        self._statistics = list(proxy.mean), list(proxy.std)
        self.info = proxy.info
        if made.targets is None:
            return ImageSet(made.images, made.labels, proxy.class_names, made.groups, source=self.proxy_path)
        return SoftImageSet(made.images, made.labels, proxy.class_names, made.groups, made.targets, self.proxy_path)

    def load_test(self) -> LabelledImages:
        """The test images of ``test``.

        Raises:
            DataError: There is no ``test``, or its classes are others.
        """
        if self.test is None:
            raise DataError(
                f"{self.proxy_path} has no test images. Give --data.test the data that it was distilled from."
            )
        test = self.test.load_test()
        _check_classes(test.class_names, self.class_names, self.proxy_path)
        return test

    def statistics(self, images: LabelledImages) -> tuple[list[float], list[float]]:
        """Mean and deviation of the source's training images, which normalised the proxy's."""
        return self._statistics


class DistilledDataModule(HalvesDataModule):
    """``HalvesDataModule`` of a proxy; images that share stored values stay in the same half.

    The search half may be real instead: networks trained on synthetic images are then scored on real ones.

    Args:
        proxy_path: Path of ``proxy.safetensors``, with ``proxy.json`` beside it.
        batch_size: Images a process, batch and half, at least 1.
        search_fraction: Part of the images in the search half, between 0 and 1; see ``HalvesDataModule``.
        split_seed: Of the split, equal on all processes.
        augmentations: Random changes of training images, in order; none if null.
        seed: Of the order and of the augmentations.
        images_per_group: Images of every group (those that share stored values, such as a base's) that an epoch sees,
            drawn afresh; all if null.
        held_out: Real images whose validation set is the search half; all of the proxy is the train half then. The
            distillation must have left the same images out: the same ``validation_fraction`` and ``split_seed``. If
            null, the proxy is split.
    """

    def __init__(
        self,
        proxy_path: str,
        batch_size: int = 64,
        search_fraction: float = 0.5,
        split_seed: int = 0,
        augmentations: list[Augmentation] | None = None,
        seed: int = 0,
        images_per_group: int | None = None,
        held_out: ImageDataModule | None = None,
    ) -> None:
        data = ProxyDataModule(proxy_path, augmentations=augmentations, seed=seed)
        super().__init__(data, batch_size, search_fraction, split_seed)
        self._images = data
        self.proxy_path = proxy_path
        if images_per_group is not None and images_per_group < 1:
            raise ConfigError(f"images_per_group is {images_per_group}; it must be at least 1, or null for all.")
        self.images_per_group = images_per_group
        self.held_out = held_out

    def prepare_data(self) -> None:
        """Download the real images, in one process of every machine."""
        if self.held_out is not None:
            self.held_out.prepare_data()

    @cached_property
    def _halves(self) -> dict[str, Subset[Batch]]:
        if self.held_out is None:
            return super()._halves
        real, proxy = self.held_out.validation_set, self.data.train_set
        made, own = self._images.info.get("split"), self.held_out.split
        if made not in (None, own):
            raise DataError(
                f"{self.proxy_path} was distilled from what {made} leaves of the training images, but held_out has "
                f"{own}: images to score on could be distilled ones. Give both the same train_limit, "
                "validation_fraction and split_seed."
            )
        _check_classes(real.class_names, proxy.class_names, self.proxy_path)
        if real.image_shape != proxy.image_shape:
            raise DataError(
                f"The held-out images have shape {real.image_shape}, the proxy's {proxy.image_shape} (channels, "
                "height, width). Take them from the data that the proxy was distilled from."
            )
        return {"train": Subset(proxy, range(len(proxy))), "search": Subset(real, range(len(real)))}

    def sampler(self, half: Subset[Batch], world: int, rank: int, seed: int) -> EpochSampler:
        """Some images of every group where that is set; see ``HalvesDataModule.sampler``."""
        images = half.dataset
        if self.images_per_group is None or not isinstance(images, LabelledImages) or images.groups is None:
            return super().sampler(half, world, rank, seed)
        groups = images.groups[torch.as_tensor(list(half.indices))]
        return GroupSampler(groups, self.images_per_group, world, rank, seed)


def _check_classes(real: list[str], proxy: list[str], path: str) -> None:
    if real != proxy:
        raise DataError(
            f"{path} is of the classes {proxy}, the real images are of {real}. Take the data that it was "
            "distilled from."
        )
