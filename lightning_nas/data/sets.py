"""Labelled images: in memory as one tensor, or decoded from a folder batch by batch."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from lightning_nas.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File names that ``FolderSet`` takes for images."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What such files may hold, whatever their name says: for some other formats Pillow starts other programs."""

Batch = tuple[Tensor, Tensor]
"""Images ``(batch, channels, height, width)`` and labels ``(batch,)``, or soft ones ``(batch, classes)``."""


def classes_of(labels: Tensor) -> Tensor:
    """The class of every label, ``(n,)``: hard labels as they are, of soft ones ``(n, classes)`` the likeliest."""
    return labels if labels.ndim == 1 else labels.argmax(1)


class LabelledImages(Dataset[Batch], ABC):
    """Images of one size with their labels, read a whole batch at a time.

    Attributes:
        labels: int64 ``(n,)``, indices into ``class_names``.
        class_names: Names by label.
        groups: int64 ``(n,)`` where images of one number belong together and must not be split, else None.
    """

    def __init__(self, labels: Tensor, class_names: list[str], groups: Tensor | None = None) -> None:
        self.labels = labels
        self.class_names = class_names
        self.groups = groups

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""

    @abstractmethod
    def __getitems__(self, indices: list[int]) -> Batch:
        """The images and labels at ``indices``, as one batch."""

    @abstractmethod
    def select(self, indices: Tensor) -> Self:
        """The same kind of set with only the images at ``indices``, in that order."""

    def __getitem__(self, index: int) -> Batch:
        """One image ``(channels, height, width)`` and its label, a scalar."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __len__(self) -> int:
        return len(self.labels)


class ImageSet(LabelledImages):
    """Images held in memory; a batch is one indexing of a tensor.

    Args:
        images: ``(n, channels, height, width)``: uint8 pixels, or floats that are normalised already.
        labels: Integers ``(n,)`` from 0.
        class_names: Names by label; the numbers of the labels if None.
        groups: int64 ``(n,)``; images of one number stay in the same half.
        source: What the images are, for error messages.

    Raises:
        DataError: A wrong shape or type, or labels that fit neither the images nor the names.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        class_names: list[str] | None = None,
        groups: Tensor | None = None,
        source: str = "the image set",
    ) -> None:
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise DataError(
                f"The images of {source} have shape {tuple(images.shape)}; expected 4 axes "
                "(n, channels, height, width), none of the last three empty. Add the missing axis."
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise DataError(
                f"The images of {source} are {images.dtype}; expected uint8 pixels from 0 to 255. Scale and round them."
            )
        names = class_names or _numbered(labels, source)
        check_labels(labels, len(images), names, source)
        super().__init__(labels.long(), names, groups)
        self.images = images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def averaged(self, size: int) -> "ImageSet":
        """The same images, averaged down.

        Args:
            size: Their side, at most that of these.
        """
        parts = [F.adaptive_avg_pool2d(part.float(), size) for part in self.images.split(4096)]
        pixels = [part.round().to(torch.uint8) if self.images.dtype == torch.uint8 else part for part in parts]
        return ImageSet(torch.cat(pixels), self.labels, self.class_names, self.groups)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Images ``(batch, channels, height, width)`` and labels ``(batch,)``, where the images live."""
        index = torch.as_tensor(indices, device=self.images.device)
        return self.images[index], self.labels[index]

    def select(self, indices: Tensor) -> Self:
        """Copy the images at ``indices``, in that order."""
        groups = None if self.groups is None else self.groups[indices]
        return type(self)(self.images[indices], self.labels[indices], self.class_names, groups)

    def to(self, device: torch.device) -> Self:
        """Move the images and labels to ``device``; batches then come from there."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self


def _numbered(labels: Tensor, source: str) -> list[str]:
    """The labels' numbers as names, of which there may not be many more than labels: every class needs an image.

    Raises:
        DataError: The highest label is far above their number.
    """
    highest = int(labels.max()) if labels.numel() else -1
    if highest > 1000 + labels.numel():
        raise DataError(
            f"The labels of {source} go up to {highest} for {labels.numel()} images; expected classes numbered from 0 "
            "without gaps. Number them so."
        )
    return [str(label) for label in range(highest + 1)]


class FolderSet(LabelledImages):
    """Image files in a folder a class, decoded when they are asked for.

    Each image becomes RGB, is scaled so that its shorter side fits, and is cropped at its centre.

    Args:
        root: Folder with one folder of images a class.
        image_size: Height and width in pixels.
        class_names: The classes in the order of their labels; all folders in ``root``, sorted, if None.

    Raises:
        DataError: No such folder, no classes, a class without images or one that is not in ``class_names``.
    """

    def __init__(self, root: str | Path, image_size: int, class_names: list[str] | None = None) -> None:
        root = Path(root)
        expected = f"expected {root}/<class>/<image>, with an image one of {', '.join(sorted(SUFFIXES))}"
        if not root.is_dir():
            raise DataError(f"{root} is no folder; {expected}. Check the path.")
        found = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")
        names = class_names or found
        if unknown := sorted(set(found) - set(names)):
            raise DataError(f"{root} has the classes {unknown}, which the training folder lacks. Remove or add them.")
        if not found:
            raise DataError(f"{root} has no folders of classes; {expected}.")
        files, labels = [], []
        for name in found:
            paths = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
            if not paths:
                raise DataError(f"{root / name} holds no images; {expected}. Remove the folder or fill it.")
            files += paths
            labels += [names.index(name)] * len(paths)
        super().__init__(torch.tensor(labels), names)
        self.files = files
        self.image_size = image_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(3, height, width)``."""
        return 3, self.image_size, self.image_size

    @property
    def nbytes(self) -> int:
        """Bytes of all decoded images."""
        return len(self) * 3 * self.image_size**2

    def __getitems__(self, indices: list[int]) -> Batch:
        """Decode the files at ``indices``: uint8 ``(batch, 3, height, width)``, and labels ``(batch,)``.

        Raises:
            DataError: A file is no complete image; the message names it.
        """
        return torch.stack([self._decode(self.files[index]) for index in indices]), self.labels[indices]

    def select(self, indices: Tensor) -> Self:
        """Keep the files at ``indices``, in that order."""
        chosen = object.__new__(type(self))
        LabelledImages.__init__(chosen, self.labels[indices], self.class_names)
        chosen.files = [self.files[index] for index in indices.tolist()]
        chosen.image_size = self.image_size
        return chosen

    def _decode(self, path: Path) -> Tensor:
        import numpy as np
        from PIL import Image, ImageOps

        try:
            with Image.open(path, formats=FORMATS) as image:
                fitted = ImageOps.fit(
                    image.convert("RGB"), (self.image_size, self.image_size), Image.Resampling.BILINEAR
                )
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} is no complete image ({error}). Replace or delete it.") from None
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def check_labels(labels: Tensor, images: int, class_names: list[str], source: str) -> None:
    """Check that there is one valid label an image.

    Raises:
        DataError: Labels of a wrong type, shape or number, or outside ``class_names``.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"The labels of {source} are {labels.dtype}; expected integers from 0. Convert them.")
    if labels.shape != (images,):
        raise DataError(
            f"The labels of {source} have shape {tuple(labels.shape)} for {images} images; expected "
            f"({images},): one number an image."
        )
    if images and int(labels.min()) < 0:
        raise DataError(f"The labels of {source} go down to {int(labels.min())}; expected 0 to {len(class_names) - 1}.")
    if images and int(labels.max()) >= len(class_names):
        raise DataError(
            f"The labels of {source} go up to {int(labels.max())}, but the training set has "
            f"{len(class_names)} classes; expected 0 to {len(class_names) - 1}. Leave such images out, or "
            "name all classes."
        )


def check_training_set(
    images: LabelledImages, repair: str = "Number the classes from 0 without gaps, or add images."
) -> None:
    """Check that a training set can train a classifier.

    Args:
        images: The training set.
        repair: What to do where classes have no images, for the error message.

    Raises:
        DataError: No images, one class, or a class without images.
    """
    counts = torch.bincount(images.labels, minlength=len(images.class_names))
    if len(images) == 0:
        raise DataError("The training set is empty; expected images of at least two classes.")
    if len(counts) < 2:
        raise DataError(f"The training set has one class, {images.class_names}; expected at least two.")
    if len(missing := (counts == 0).nonzero().flatten().tolist()):
        names = [images.class_names[label] for label in missing]
        raise DataError(f"The training set has no image of the classes {names} (labels {missing}). {repair}")


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and deviation of every channel, on a scale from 0 to 1; a constant channel gets deviation 1.

    Args:
        images: uint8 ``(n, channels, height, width)``.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        # a histogram is exact, and needs no float copy of the images
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = float(share @ levels)
        means.append(mean)
        deviations.append(float(share @ (levels - mean) ** 2) ** 0.5 or 1.0)
    return means, deviations
