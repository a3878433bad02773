"""Schemes that store plain images: distilled ones, and controls that are not trained."""

from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.checks import at_least
from lightning_nas.distill.base import Scheme, Selection, Synthetic
from lightning_nas.errors import ConfigError, DataError


def class_subset(
    labels: Tensor, per_class: int, num_classes: int, generator: torch.Generator, name: str = "images_per_class"
) -> Tensor:
    """Choose ``per_class`` random images of every class.

    Args:
        labels: int64 ``(n,)``.
        per_class: Number of images per class.
        num_classes: Number of classes.
        generator: Generator of the choice.
        name: Name of the argument, for the error message.

    Returns:
        Indices, class by class.

    Raises:
        ConfigError: ``per_class`` is below 1, or a class has fewer images.
    """
    check_class_counts(labels, per_class, num_classes, name)
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([order[labels[order] == c][:per_class] for c in range(num_classes)])


def check_class_counts(labels: Tensor, per_class: int, num_classes: int, name: str = "images_per_class") -> None:
    """Refuse to take more images of every class than there are.

    Args:
        labels: int64 ``(n,)``.
        per_class: Number of images per class.
        num_classes: Number of classes.
        name: Name of the argument, for the error message.

    Raises:
        ConfigError: ``per_class`` is below 1, or a class has fewer images.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if not 1 <= per_class <= int(counts.min()):
        raise ConfigError(
            f"{name} is {per_class}; it must be from 1 to {int(counts.min())}, the number of training images of class "
            f"{int(counts.argmin())}."
        )


def averaged(images: Tensor, downscale: int) -> Tensor:
    """Average images down.

    Args:
        images: ``(n, channels, height, width)``.
        downscale: Factor by which both sides shrink, at least 1.

    Raises:
        DataError: It does not divide both sides.
    """
    height, side = images.shape[2:]
    if height % downscale or side % downscale:
        raise DataError(
            f"Images of {height}x{side} pixels cannot be stored at 1/{downscale} of that. Use a downscale that "
            "divides both sides."
        )
    return F.avg_pool2d(images, downscale)


def enlarged(images: Tensor, downscale: int) -> Tensor:
    """Enlarge images that were averaged down, bilinearly.

    Args:
        images: ``(n, channels, height, width)``.
        downscale: Factor by which both sides grow, at least 1.
    """
    if downscale == 1:
        return images
    return F.interpolate(images, scale_factor=downscale, mode="bilinear", align_corners=False)


def selected(
    selection: Selection | None,
    images: Tensor,
    labels: Tensor,
    per_class: int,
    num_classes: int,
    generator: torch.Generator,
    name: str = "images_per_class",
) -> Tensor:
    """Choose ``per_class`` images of every class, by a selection or at random.

    Args:
        selection: The selection; random images if None.
        images: All training images, normalized.
        labels: int64 ``(n,)``.
        per_class: Number of images per class.
        num_classes: Number of classes.
        generator: Generator of all random choices.
        name: Name of the argument that says how many, for the error message.

    Returns:
        Indices, class by class.

    Raises:
        ConfigError: A class has fewer images, or fewer that the selection may choose.
    """
    check_selected(selection, labels, per_class, num_classes, name)
    if selection is None:
        return class_subset(labels, per_class, num_classes, generator, name)
    return selection.choose(images, labels, per_class, num_classes, generator)


def check_selected(
    selection: Selection | None, labels: Tensor, per_class: int, num_classes: int, name: str = "images_per_class"
) -> None:
    """Refuse what ``selected`` could not choose; arguments are its own."""
    check_class_counts(labels, per_class, num_classes, name)
    if selection is not None:
        selection.check(labels, per_class, num_classes, name)


class PlainImages(Scheme):
    """Every stored image is an image of the proxy, trained pixel by pixel. They start as real images.

    Args:
        images_per_class: Images per class, at least 1 (the papers: 1, 10 or 50).
        downscale: Side of an image divided by that of its stored one, at least 1. With 2, images take a quarter of the
            bytes.
        selection: Choice of the real images to start from; random ones if null.

    Raises:
        ConfigError: ``downscale`` is below 1.

    Example:
        ```yaml
        scheme:
          class_path: PlainImages
          init_args:
            images_per_class: 10
        ```
    """

    parameter_names = ("images",)
    slice_dims = MappingProxyType({"images": 1})

    def __init__(self, images_per_class: int = 10, *, downscale: int = 1, selection: Selection | None = None) -> None:
        super().__init__()
        at_least(1, downscale=downscale)
        self.images_per_class = images_per_class
        self.downscale = downscale
        self.selection = selection

    def choose(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """Choose the real images to start from. Arguments are those of ``Scheme.start``.

        Returns:
            Indices, class by class.
        """
        return selected(self.selection, images, labels, self.images_per_class, num_classes, generator)

    def check(self, labels: Tensor, num_classes: int) -> None:
        """See ``Scheme.check``."""
        check_selected(self.selection, labels, self.images_per_class, num_classes)

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Copy real images of every class; see ``Scheme.start``."""
        chosen = self.choose(images, labels, num_classes, generator)
        self.images = nn.Parameter(averaged(images[chosen], self.downscale).clone())
        self.register_buffer("labels", labels[chosen].clone())

    def proxy(self) -> Synthetic:
        """Return all images, each in a group of its own."""
        labels = self.get_buffer("labels")
        return Synthetic(enlarged(self.images, self.downscale), labels, torch.arange(len(labels), device=labels.device))

    def layout(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """See ``Scheme.layout``."""
        labels = torch.arange(num_classes).repeat_interleave(self.images_per_class)
        return labels, torch.arange(len(labels))

    def arguments(self) -> dict[str, Any]:
        """See ``Scheme.arguments``."""
        return {"images_per_class": self.images_per_class, "downscale": self.downscale}

    def proxy_shape(self) -> tuple[int, int, int, int]:
        """See ``Scheme.proxy_shape``."""
        n, channels, height, width = self.images.shape
        if self.get_buffer("labels").shape != (n,):
            raise ValueError(f"there are {n} images, and labels of shape {tuple(self.get_buffer('labels').shape)}")
        return n, channels, height * self.downscale, width * self.downscale


class RandomSubset(PlainImages):
    """Control: real images of every class that are not trained, drawn at random unless there is a ``selection``.

    Args:
        images_per_class: Images per class, at least 1.
        downscale: Side of an image divided by that of its stored one, at least 1.
        selection: Choice of the images; random ones if null.

    Example:
        ```yaml
        model:
          class_path: DistillTask
          init_args:
            scheme:
              class_path: RandomSubset
        ```
    """

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Copy real images of every class; see ``Scheme.start``."""
        super().start(images, labels, num_classes, generator)
        self.images.requires_grad_(False)


class Noise(RandomSubset):
    """Control: Gaussian noise, not trained, with the same number of images per class. A search on it learns nothing.

    Args:
        images_per_class: Images per class, at least 1.
        downscale: Side of an image divided by that of its stored one, at least 1.

    Example:
        ```yaml
        model:
          class_path: DistillTask
          init_args:
            scheme:
              class_path: Noise
        ```
    """

    def __init__(self, images_per_class: int = 10, *, downscale: int = 1) -> None:
        super().__init__(images_per_class, downscale=downscale)

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Draw standard normal pixels, the scale of normalized images; see ``Scheme.start``."""
        super().start(images, labels, num_classes, generator)
        self.images.data = torch.randn(self.images.shape, generator=generator)
