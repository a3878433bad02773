"""Distilled images: a proxy on disk in place of the data that it stands for."""

from pathlib import Path

import torch

from lightning_nas.data.augmentation import Augmentation
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.sets import ImageSet, LabelledImages
from lightning_nas.errors import DataError


class ProxyDataModule(ImageDataModule):
    """The images of a proxy, which are normalised already; mean and deviation are those of its source.

    There are no test images. Augmentations that pad pad with the mean, not with black.

    Attributes:
        inputs: The proxy's files, by the kind of artifact.

    Args:
        proxy: Path of ``proxy.safetensors``, with ``proxy.json`` beside it.
        batch_size: Images a process and batch, at least 1.
        augmentations: Random changes of training images, in order; none if null.
        seed: Of the order and of the augmentations.
    """

    def __init__(
        self, proxy: str, batch_size: int = 64, augmentations: list[Augmentation] | None = None, seed: int = 0
    ) -> None:
        super().__init__(batch_size=batch_size, augmentations=augmentations, seed=seed)
        self.proxy = proxy
        self.inputs = {"proxy": [Path(proxy), Path(proxy).with_suffix(".json")]}

    def load_train(self) -> ImageSet:
        """Read the proxy."""
        from lightning_nas.distill.base import Proxy

        proxy = Proxy.load(self.proxy)
        if not bool(torch.isfinite(proxy.images).all()):
            raise DataError(f"{self.proxy} has images that are not finite. Distill again, with a lower learning rate.")
        self._statistics = list(proxy.mean), list(proxy.std)
        return ImageSet(proxy.images, proxy.labels, proxy.class_names, proxy.groups, source=self.proxy)

    def load_test(self) -> ImageSet:
        """A proxy has none."""
        raise DataError(f"{self.proxy} has no test images. Test on the data that it was distilled from.")

    def statistics(self, images: LabelledImages) -> tuple[list[float], list[float]]:
        """Mean and deviation of the source's training images, which normalised the proxy's."""
        return self._statistics


class DistilledDataModule(HalvesDataModule):
    """``HalvesDataModule`` of a proxy; images that share stored pixels stay in the same half.

    Args:
        proxy: Path of ``proxy.safetensors``, with ``proxy.json`` beside it.
        batch_size: Images a process, batch and half, at least 1.
        search_fraction: Part of the images in the search half, between 0 and 1; see ``HalvesDataModule``.
        split_seed: Of the split, equal on all processes.
        augmentations: Random changes of training images, in order; none if null.
        seed: Of the order and of the augmentations.
    """

    def __init__(
        self,
        proxy: str,
        batch_size: int = 64,
        search_fraction: float = 0.5,
        split_seed: int = 0,
        augmentations: list[Augmentation] | None = None,
        seed: int = 0,
    ) -> None:
        data = ProxyDataModule(proxy, augmentations=augmentations, seed=seed)
        super().__init__(data, batch_size, search_fraction, split_seed)
