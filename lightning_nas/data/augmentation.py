"""Random changes of training images, as batched tensor functions on the device of the images."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_nas.errors import ConfigError


class Augmentation(ABC):
    """A random change of every image of a batch.

    Attributes:
        after_normalization: Whether it works on normalised images, where 0 is the mean of the data, instead
            of pixels from 0 to 1, where 0 is black.
    """

    after_normalization = False

    @abstractmethod
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change each image by its own draw.

        Args:
            images: Floats ``(batch, channels, height, width)``; they are left as they are.
            generator: Source of all draws, on the device of the images.

        Returns:
            New images of the same shape.
        """


class RandomCrop(Augmentation):
    """Pad with zeros, then cut the old size out at a random place: a shift by up to ``padding`` pixels.

    Args:
        padding: Pixels on each side, at least 0.
    """

    def __init__(self, padding: int = 4) -> None:
        if padding < 0:
            raise ConfigError(f"padding is {padding}; it must be at least 0 pixels.")
        self.padding = padding

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Shift every image; see ``Augmentation``."""
        batch, _, height, width = images.shape
        top, left = torch.randint(2 * self.padding + 1, (2, batch), generator=generator, device=images.device)
        # a view of all crops, (batch, channels, tops, lefts, height, width), of which one an image is copied
        crops = pad(images, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
        return crops[torch.arange(batch, device=images.device), :, top, left]


class RandomFlip(Augmentation):
    """Mirror left and right.

    Args:
        probability: Of an image to be mirrored, from 0 to 1.
    """

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f"probability is {probability}; it must be from 0 to 1.")
        self.probability = probability

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror some images; see ``Augmentation``."""
        flipped = torch.rand(len(images), generator=generator, device=images.device) < self.probability
        return torch.where(flipped[:, None, None, None], images.flip(3), images)


class Cutout(Augmentation):
    """Set one square of every image to zero, the mean of the data.

    The centre is uniform over the image and the square is clipped at the border, so that less is lost there.

    References:
        1. DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017:
           https://github.com/uoguelph-mlrg/Cutout

    Args:
        length: Side of the square in pixels, at least 1; 16 for the 32 pixels of CIFAR.
    """

    after_normalization = True

    def __init__(self, length: int = 16) -> None:
        if length < 1:
            raise ConfigError(f"length is {length}; it must be at least 1 pixel.")
        self.length = length

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Cut a square out of every image; see ``Augmentation``."""
        batch, _, height, width = images.shape
        device = images.device

        def inside(size: int) -> Tensor:
            """Which of ``size`` rows or columns the square of each image covers, bool ``(batch, size)``."""
            start = torch.randint(size, (batch, 1), generator=generator, device=device) - self.length // 2
            position = torch.arange(size, device=device)
            return (start <= position) & (position < start + self.length)

        square = inside(height)[:, None, :, None] & inside(width)[:, None, None, :]
        return images.masked_fill(square, 0)
