"""Data modules that serve a proxy in place of the data that it stands for."""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Subset

from lightning_nas.checks import at_least
from lightning_nas.data.augmentation import Augmentation
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.loaders import EpochSampler, check_whole_batch
from lightning_nas.data.sets import Batch, ImageSet, LabelledImages
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import DataError


class SoftImageSet(ImageSet):
    """Images whose batches have soft labels.

    Args:
        images: ``(n, channels, height, width)``; see ``ImageSet``.
        labels: The class that each image stands for, ``(n,)``.
        class_names: Name of every class, in the order of the labels.
        groups: Group of every image, int64 ``(n,)``.
        soft_labels: Probabilities of the classes, ``(n, classes)``.
        source: What the images are, for error messages.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        class_names: list[str],
        groups: Tensor,
        soft_labels: Tensor,
        source: str = "the image set",
    ) -> None:
        super().__init__(images, labels, class_names, groups, source)
        self.soft_labels = soft_labels

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return images ``(batch, channels, height, width)`` and soft labels ``(batch, classes)``."""
        index = torch.as_tensor(indices, device=self.images.device)
        return self.images[index], self.soft_labels[index]

    def class_counts(self, indices: Tensor | None = None) -> Tensor:
        """Sum the probabilities of every class over the images; see ``LabelledImages.class_counts``."""
        soft = self.soft_labels if indices is None else self.soft_labels[indices.to(self.soft_labels.device)]
        return soft.sum(0)

    def select(self, indices: Tensor) -> Self:
        """Copy the images at ``indices``, in that order."""
        assert self.groups is not None
        images, labels, groups = (t[indices] for t in (self.images, self.labels, self.groups))
        chosen = object.__new__(type(self))
        SoftImageSet.__init__(chosen, images, labels, self.class_names, groups, self.soft_labels[indices])
        return chosen

    def to(self, device: torch.device) -> Self:
        """Move images and labels to ``device``."""
        self.soft_labels = self.soft_labels.to(device)
        return super().to(device)


class GroupSampler(EpochSampler):
    """Draws ``per_group`` random images of every group, new ones in every epoch, in random order.

    Args:
        groups: Group of every image, int64 ``(n,)``.
        per_group: Images per group and epoch; all images of a smaller group.
        world: Number of processes.
        rank: Index of this process.
        seed: Seed of the draws and of the order.
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
    """Serves the images of a proxy as a training set, and real images as a test set.

    Images of a proxy are normalized already; ``mean`` and ``std`` are those of its source. Where the proxy has soft
    labels, so have the batches: ``(batch, classes)``. Augmentations that pad images fill in the mean, not black.

    Args:
        proxy_path: Path of ``proxy.safetensors``, with ``proxy.json`` beside it.
        batch_size: Images per batch and process, at least 1.
        augmentations: Random changes of training images, applied in this order; none if null.
        seed: Seed of the order of images and of the augmentations.
        test: Data module whose test images to test on, normalized like the source of the proxy; no test if null.

    Attributes:
        inputs: Files of the proxy, by kind of artifact.
        info: What ``proxy.json`` says about the proxy, once it has been read.

    Example:
        ```yaml
        data:
          class_path: ProxyDataModule
          init_args:
            proxy_path: proxy.safetensors
            test:
              class_path: CIFAR10DataModule
        ```
    """

    def __init__(
        self,
        proxy_path: str,
        *,
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
        self._promised: LabelledImages | None = None

    def prepare_data(self) -> None:
        """Download the test images, in one process per machine."""
        if self.test is not None:
            self.test.prepare_data()

    def load_train(self) -> ImageSet:
        """Read the proxy.

        Raises:
            ArtifactError: A file of the proxy is missing or damaged.
            DataError: The proxy has images that are not finite.
        """
        proxy = Proxy.load(self.proxy_path)
        made = proxy.synthetic
        if not bool(torch.isfinite(made.images).all()):
            raise DataError(
                f"{self.proxy_path} has images that are not finite. Distill again with a lower learning rate."
            )
        stored = proxy.info.get("stored_bytes", proxy.scheme.stored_bytes)
        rank_zero_info(f"{self.proxy_path}: {len(made.labels):,} images made from {stored:,} stored bytes")
        self._statistics = list(proxy.mean), list(proxy.std)
        self.info = proxy.info
        images, labels, names, groups = made.images, made.labels, proxy.class_names, made.groups
        if made.soft_labels is None:
            return ImageSet(images, labels, names, groups, self.proxy_path)
        return SoftImageSet(images, labels, names, groups, made.soft_labels, self.proxy_path)

    def promise(self, labels: Tensor, groups: Tensor, class_names: list[str]) -> None:
        """Say which images the proxy will have, for a check before it is made.

        Args:
            labels: Class of every image, int64 ``(n,)``.
            groups: Group of every image, int64 ``(n,)``.
            class_names: Name of every class.
        """
        self._promised = ImageSet(torch.zeros(len(labels), 1, 1, 1), labels, class_names, groups, self.proxy_path)

    def list_train(self) -> LabelledImages:
        """List the images of the proxy, or those that it was promised to have."""
        return self.load_train() if self._promised is None else self._promised

    def list_test(self) -> LabelledImages:
        """List the test images of ``test``."""
        return self.load_test() if self.test is None else self.test.list_test()

    def load_test(self) -> LabelledImages:
        """Open the test images of ``test``.

        Raises:
            DataError: There is no ``test``, or its classes are not those of the proxy.
        """
        if self.test is None:
            raise DataError(
                f"{self.proxy_path} has no test images. Set --data.test to the data that it was distilled from."
            )
        test = self.test.averaged(self.test.load_test())
        _check_classes(test.class_names, self.class_names, self.proxy_path)
        return test

    def statistics(self, images: LabelledImages) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of the source's training images, which normalized those of the proxy."""
        return self._statistics


class DistilledDataModule(HalvesDataModule):
    """Splits a proxy into the train half and the search half of a bi-level search.

    Images that share stored values stay in the same half. Alternatively, the search half can be real images, so that
    networks trained on synthetic images are scored on real ones. Batches are those of ``HalvesDataModule``.

    Args:
        proxy_path: Path of ``proxy.safetensors``, with ``proxy.json`` beside it.
        batch_size: Images per batch, half and process, at least 1.
        search_fraction: Fraction of the images in the search half, between 0 and 1; see ``HalvesDataModule``.
        split_seed: Seed of the split, the same on all processes.
        augmentations: Random changes of training images, applied in this order; none if null.
        seed: Seed of the order of images and of the augmentations.
        images_per_group: Images that an epoch sees of every group (images that share stored values, such as those of
            one base), drawn anew in every epoch, at least 1; all of them if null.
        held_out: Data module whose validation set is the search half; the whole proxy is the train half then. The
            distillation must have left out the same images: use the same ``validation_fraction`` and ``split_seed``.
            If null, the proxy is split.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        data:
          class_path: DistilledDataModule
          init_args:
            proxy_path: proxy.safetensors
            held_out:
              class_path: CIFAR10DataModule
              init_args:
                validation_fraction: 0.02
        ```
    """

    def __init__(
        self,
        proxy_path: str,
        *,
        batch_size: int = 64,
        search_fraction: float = 0.5,
        split_seed: int = 0,
        augmentations: list[Augmentation] | None = None,
        seed: int = 0,
        images_per_group: int | None = None,
        held_out: ImageDataModule | None = None,
    ) -> None:
        data = ProxyDataModule(proxy_path, augmentations=augmentations, seed=seed)
        super().__init__(data, batch_size=batch_size, search_fraction=search_fraction, split_seed=split_seed)
        at_least(1, images_per_group=images_per_group)
        self._images = data
        self.proxy_path = proxy_path
        self.images_per_group = images_per_group
        self.held_out = held_out

    def prepare_data(self) -> None:
        """Download the real images, in one process per machine."""
        if self.held_out is not None:
            self.held_out.prepare_data()

    def promise(self, labels: Tensor, groups: Tensor, class_names: list[str]) -> None:
        """Say which images the proxy will have; see ``ProxyDataModule.promise``."""
        self._images.promise(labels, groups, class_names)

    def check(self, processes: int = 1, test: bool = False) -> bool:
        """Check that both halves have a batch for every process; see ``ImageDataModule.check``.

        Raises:
            DataError: A half is too small, or there are no held-out images.
        """
        if test:
            self.data.check_test()
        for name, each in self._group_members().items():
            size = int(torch.unique(each, return_counts=True)[1].clamp(max=self.images_per_group or len(each)).sum())
            check_whole_batch(f"{name} half", size, size // processes, processes, self.batch_size)
        return False

    def half_sizes(self) -> dict[str, int]:
        """Count the images of both halves; see ``HalvesDataModule.half_sizes``."""
        return {name: len(groups) for name, groups in self._group_members().items()}

    def _group_members(self) -> dict[str, Tensor]:
        """The group of every image, for both halves."""
        proxy, _ = self.data.list_parts()
        groups = torch.arange(len(proxy)) if proxy.groups is None else proxy.groups
        if self.held_out is None:
            return dict(zip(("train", "search"), (groups[half] for half in self._split(proxy)), strict=True))
        real = self.held_out.list_parts()[1]
        if real is None:
            raise DataError(
                "held_out has no validation set, which is to be the search half. Set its validation_fraction above 0, "
                "such as to 0.1, or held_out to null."
            )
        return {"train": groups, "search": torch.arange(len(real))}

    @cached_property
    def _halves(self) -> dict[str, Subset[Batch]]:
        if self.held_out is None:
            return super()._halves
        real, proxy = self.held_out.validation_set, self.data.train_set
        made, own = self._images.info.get("split"), self.held_out.split
        if made not in (None, own):
            raise DataError(
                f"{self.proxy_path} was distilled from the training images that {made} leaves, but held_out has {own}: "
                "the images to score on could be among those distilled. Give both the same train_limit, "
                "validation_fraction and split_seed."
            )
        _check_classes(real.class_names, proxy.class_names, self.proxy_path)
        if real.image_shape != proxy.image_shape:
            raise DataError(
                f"The held-out images have shape {real.image_shape}, those of the proxy {proxy.image_shape} (channels, "
                "height, width). Take them from the data that the proxy was distilled from."
            )
        return {"train": Subset(proxy, range(len(proxy))), "search": Subset(real, range(len(real)))}

    def sampler(self, half: Subset[Batch], world: int, rank: int, seed: int) -> EpochSampler:
        """Draw some images of every group if ``images_per_group`` is set; see ``HalvesDataModule.sampler``."""
        images = half.dataset
        if self.images_per_group is None or not isinstance(images, LabelledImages) or images.groups is None:
            return super().sampler(half, world, rank, seed)
        groups = images.groups[torch.as_tensor(list(half.indices))]
        return GroupSampler(groups, self.images_per_group, world, rank, seed)


def _check_classes(real: list[str], proxy: list[str], path: str) -> None:
    if real != proxy:
        raise DataError(
            f"{path} has the classes {proxy}, the real images have {real}. Take the data that it was distilled from."
        )
