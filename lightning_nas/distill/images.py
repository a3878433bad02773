"""Schemes that store plain images: distilled ones, and controls that are not trained."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.distill.base import Scheme, Synthetic
from lightning_nas.errors import ConfigError


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


class PlainImages(Scheme):
    """Every stored image is an image of the proxy, trained pixel by pixel. They start as real images.

    Args:
        images_per_class: Images per class, at least 1 (the papers: 1, 10 or 50).

    Example:
        ```yaml
        scheme:
          class_path: PlainImages
          init_args:
            images_per_class: 10
        ```
    """

    parameter_names = ("images",)

    def __init__(self, images_per_class: int = 10) -> None:
        super().__init__()
        self.images_per_class = images_per_class

    def choose(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """Choose the real images to start from: random ones of every class. Arguments are those of ``Scheme.start``.

        Returns:
            Indices, class by class.
        """
        return class_subset(labels, self.images_per_class, num_classes, generator)

    def check(self, labels: Tensor, num_classes: int) -> None:
        """See ``Scheme.check``."""
        check_class_counts(labels, self.images_per_class, num_classes)

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Copy real images of every class; see ``Scheme.start``."""
        chosen = self.choose(images, labels, num_classes, generator)
        self.images = nn.Parameter(images[chosen].clone())
        self.register_buffer("labels", labels[chosen].clone())

    def proxy(self) -> Synthetic:
        """Return all images, each in a group of its own."""
        labels = self.get_buffer("labels")
        return Synthetic(self.images, labels, torch.arange(len(labels), device=labels.device))

    def layout(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """See ``Scheme.layout``."""
        labels = torch.arange(num_classes).repeat_interleave(self.images_per_class)
        return labels, torch.arange(len(labels))

    def arguments(self) -> dict[str, Any]:
        """See ``Scheme.arguments``."""
        return {"images_per_class": self.images_per_class}

    def proxy_shape(self) -> tuple[int, int, int, int]:
        """See ``Scheme.proxy_shape``."""
        n, channels, height, width = self.images.shape
        if self.get_buffer("labels").shape != (n,):
            raise ValueError(f"there are {n} images, and labels of shape {tuple(self.get_buffer('labels').shape)}")
        return n, channels, height, width


class RandomSubset(PlainImages):
    """Control: real images of every class, drawn at random and not trained.

    Args:
        images_per_class: Images per class, at least 1.

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

    Example:
        ```yaml
        model:
          class_path: DistillTask
          init_args:
            scheme:
              class_path: Noise
        ```
    """

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Draw standard normal pixels, the scale of normalized images; see ``Scheme.start``."""
        super().start(images, labels, num_classes, generator)
        self.images.data = torch.randn(self.images.shape, generator=generator)
