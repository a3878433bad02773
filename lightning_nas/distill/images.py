"""Proxies that are stored as plain images: distilled ones, and the controls that every table shows."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.distill.base import Scheme, Synthetic
from lightning_nas.errors import ConfigError


def class_subset(
    labels: Tensor, per_class: int, num_classes: int, generator: torch.Generator, name: str = "images_per_class"
) -> Tensor:
    """Indices of ``per_class`` random images of every class, class by class.

    Args:
        labels: int64 ``(n,)``.
        per_class: How many.
        num_classes: Number of classes.
        generator: Source of the choice.
        name: Of the setting, for the error message.

    Raises:
        ConfigError: ``per_class`` is below 1, or a class has fewer images.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if not 1 <= per_class <= int(counts.min()):
        raise ConfigError(
            f"{name} is {per_class}; it must be from 1 to {int(counts.min())}, the number of training images of class "
            f"{int(counts.argmin())}."
        )
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([order[labels[order] == c][:per_class] for c in range(num_classes)])


class PlainImages(Scheme):
    """One trainable image for every stored one, started at real images.

    Args:
        images_per_class: Stored images of a class, at least 1.
    """

    parameter_names = ("images",)

    def __init__(self, images_per_class: int = 10) -> None:
        super().__init__()
        self.images_per_class = images_per_class

    def choose(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """Indices of the real images to start at: random ones of every class; arguments as of ``Scheme.start``."""
        return class_subset(labels, self.images_per_class, num_classes, generator)

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Copy real images of every class; see ``Scheme.start``."""
        chosen = self.choose(images, labels, num_classes, generator)
        self.images = nn.Parameter(images[chosen].clone())
        self.register_buffer("labels", labels[chosen].clone())

    def proxy(self) -> Synthetic:
        """All images, each its own group."""
        labels = self.get_buffer("labels")
        return Synthetic(self.images, labels, torch.arange(len(labels), device=labels.device))

    def arguments(self) -> dict[str, Any]:
        """See ``Scheme.arguments``."""
        return {"images_per_class": self.images_per_class}

    def made(self) -> tuple[int, int, int, int]:
        """See ``Scheme.made``."""
        n, channels, height, width = self.images.shape
        if self.get_buffer("labels").shape != (n,):
            raise ValueError(f"there are {n} images, and labels of shape {tuple(self.get_buffer('labels').shape)}")
        return n, channels, height, width


class RandomSubset(PlainImages):
    """Control: real images of every class drawn at random, not trained.

    Args:
        images_per_class: Stored images of a class, at least 1.
    """

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Copy real images of every class; see ``Scheme.start``."""
        super().start(images, labels, num_classes, generator)
        self.images.requires_grad_(False)


class Noise(RandomSubset):
    """Control: Gaussian noise with random labels of equal counts, not trained. A search on it learns nothing.

    Args:
        images_per_class: Stored images of a class, at least 1.
    """

    def start(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Draw standard normal pixels, the scale of normalised images; see ``Scheme.start``."""
        super().start(images, labels, num_classes, generator)
        self.images.data = torch.randn(self.images.shape, generator=generator)
