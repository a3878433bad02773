"""Labelled images that are read a whole batch at a time, and checks of them."""

from abc import ABC, abstractmethod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from lightning_nas.data.file_names import FileNames
from lightning_nas.errors import DataError

Batch = tuple[Tensor, Tensor]
"""Images ``(batch, channels, height, width)`` with hard labels ``(batch,)`` or soft labels ``(batch, classes)``."""


def classes_of(labels: Tensor) -> Tensor:
    """Return the class of every label.

    Args:
        labels: Hard labels ``(n,)`` or soft labels ``(n, classes)``.

    Returns:
        ``(n,)``: hard labels unchanged, the likeliest class of soft ones.
    """
    return labels if labels.ndim == 1 else labels.argmax(1)


class LabelledImages(Dataset[Batch], ABC):
    """Images of one size with their labels.

    Args:
        labels: Indices into ``class_names``, int64 ``(n,)``.
        class_names: Name of every class, in the order of the labels.
        groups: Group of every image, int64 ``(n,)``. Images of one group must not be split between halves. None if
            every image may be split from every other.

    Attributes:
        labels: Indices into ``class_names``, int64 ``(n,)``.
        class_names: Name of every class, in the order of the labels.
        groups: Group of every image, int64 ``(n,)``, or None.
        files: File of every image; empty where images do not come from files of their own.
    """

    def __init__(self, labels: Tensor, class_names: list[str], groups: Tensor | None = None) -> None:
        self.labels = labels
        self.class_names = class_names
        self.groups = groups
        self.files = FileNames()

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""

    @abstractmethod
    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the images and labels at ``indices`` as one batch."""

    @abstractmethod
    def select(self, indices: Tensor) -> Self:
        """Return a set of the same kind that has only the images at ``indices``, in that order."""

    def original(self, index: int) -> Tensor:
        """Return an image as it was before it got the size of this set, by default the image itself.

        Args:
            index: Index of the image.

        Returns:
            ``(channels, height, width)``, of any height and width.
        """
        return self[index][0]

    def class_counts(self, indices: Tensor | None = None) -> Tensor:
        """Count the images of every class, ``(classes,)``.

        Args:
            indices: Which images to count; all if None.
        """
        labels = self.labels if indices is None else self.labels[indices.to(self.labels.device)]
        return torch.bincount(labels, minlength=len(self.class_names))

    def __getitem__(self, index: int) -> Batch:
        """Return one image ``(channels, height, width)`` and its label, a scalar."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __len__(self) -> int:
        return len(self.labels)


class ImageSet(LabelledImages):
    """Images in memory. Reading a batch is one indexing of a tensor.

    Args:
        images: ``(n, channels, height, width)``: pixels as uint8, or floats that are normalized already.
        labels: Integers from 0, ``(n,)``.
        class_names: Name of every class; the numbers of the labels if None.
        groups: Group of every image, int64 ``(n,)``. Images of one group stay in the same half.
        source: What the images are, for error messages.

    Raises:
        DataError: The images have a wrong shape or type, or the labels match neither the images nor the names.
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
        """Return smaller images, each pixel of which is the mean of the pixels that it covers.

        Args:
            size: New height and width in pixels, at most the present ones.
        """
        parts = [F.adaptive_avg_pool2d(part.float(), size) for part in self.images.split(4096)]
        pixels = [part.round().to(torch.uint8) if self.images.dtype == torch.uint8 else part for part in parts]
        smaller = ImageSet(torch.cat(pixels), self.labels, self.class_names, self.groups)
        smaller.files = self.files
        return smaller

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return images ``(batch, channels, height, width)`` and labels ``(batch,)`` on the device of the images."""
        index = torch.as_tensor(indices).to(self.images.device, non_blocking=True)
        return self.images[index], self.labels[index]

    def select(self, indices: Tensor) -> Self:
        """Copy the images at ``indices``, in that order."""
        groups = None if self.groups is None else self.groups[indices]
        chosen = type(self)(self.images[indices], self.labels[indices], self.class_names, groups)
        chosen.files = self.files.select(indices) if self.files else self.files
        return chosen

    def to(self, device: torch.device) -> Self:
        """Move the images and labels to ``device``, where batches come from afterwards."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self


def _numbered(labels: Tensor, source: str) -> list[str]:
    """Name classes by their numbers.

    Raises:
        DataError: The highest label is far above the number of images, although every class needs an image.
    """
    highest = int(labels.max()) if labels.numel() else -1
    if highest > 1000 + labels.numel():
        raise DataError(
            f"The labels of {source} go up to {highest} for {labels.numel()} images; expected classes numbered from 0 "
            "without gaps. Renumber them."
        )
    return [str(label) for label in range(highest + 1)]


def check_labels(labels: Tensor, images: int, class_names: list[str], source: str) -> None:
    """Check that every image has one valid label.

    Args:
        labels: The labels.
        images: Number of images.
        class_names: Name of every class.
        source: What the images are, for error messages.

    Raises:
        DataError: The labels have a wrong type, shape or length, or lie outside ``class_names``.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"The labels of {source} are {labels.dtype}; expected integers from 0. Convert them.")
    if labels.shape != (images,):
        raise DataError(
            f"The labels of {source} have shape {tuple(labels.shape)} for {images} images; expected "
            f"({images},): one number per image."
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
    """Check that a classifier can be trained on a training set.

    Args:
        images: The training set.
        repair: What to do about classes without images, for the error message.

    Raises:
        DataError: There are no images, there is only one class, or a class has no images.
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
    """Compute mean and standard deviation of every channel, on a scale from 0 to 1.

    Args:
        images: uint8 ``(n, channels, height, width)``.

    Returns:
        Means and standard deviations, one per channel.

    Raises:
        DataError: A channel has the same value in all pixels of all images.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for index, channel in enumerate(images.unbind(1)):
        # a histogram is exact, and needs no copy of the images as floats
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        if int((share > 0).sum()) == 1:
            raise DataError(
                f"Channel {index} of the training images is {int(share.argmax())} in every pixel of every image, so "
                "that nothing can be learned from it. Leave it out, or check how the images were written."
            )
        mean = float(share @ levels)
        means.append(mean)
        deviations.append(float(share @ (levels - mean) ** 2) ** 0.5)
    return means, deviations
