"""Random changes of training images, as batched tensor functions on the device of the images."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_nas.checks import at_least, within


class Augmentation(ABC):
    """Base class of augmentations: a random change of every image of a batch.

    Attributes:
        after_normalization: Whether the change is made to normalized images, where 0 is the mean of the data, instead
            of pixels from 0 to 1, where 0 is black. False by default.

    Example:
        ```python
        class Brightness(Augmentation):
            def __call__(self, images, generator):
                factors = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
                return images * (0.5 + factors)
        ```
    """

    after_normalization = False

    @abstractmethod
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change each image by a draw of its own.

        Args:
            images: Floats ``(batch, channels, height, width)``, which must not be changed in place.
            generator: Generator of all draws, on the device of the images.

        Returns:
            New images of the same shape.
        """


class RandomCrop(Augmentation):
    """Pads images with zeros and crops them to their size at a random position: a shift by up to ``padding`` pixels.

    Args:
        padding: Padding on each side in pixels, at least 0 (DARTS: 4 for the 32 pixels of CIFAR).

    Raises:
        ConfigError: ``padding`` is negative.

    Example:
        ```yaml
        augmentations:
          - class_path: RandomCrop
            init_args:
              padding: 2
        ```
    """

    def __init__(self, padding: int = 4) -> None:
        at_least(0, padding=padding)
        self.padding = padding

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Shift every image; see ``Augmentation``."""
        batch, _, height, width = images.shape
        top, left = torch.randint(2 * self.padding + 1, (2, batch), generator=generator, device=images.device)
        # a view of all crops, (batch, channels, tops, lefts, height, width), of which one per image is copied
        crops = pad(images, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
        return crops[torch.arange(batch, device=images.device), :, top, left]


class RandomFlip(Augmentation):
    """Mirrors images left to right.

    Args:
        probability: Probability of mirroring an image, from 0 to 1 (DARTS: 0.5). Set it to 0, or leave the
            augmentation out, where left and right matter, as in digits and text.

    Raises:
        ConfigError: ``probability`` is not between 0 and 1.

    Example:
        ```yaml
        augmentations:
          - class_path: RandomFlip
        ```
    """

    def __init__(self, probability: float = 0.5) -> None:
        within("[0, 1]", probability=probability)
        self.probability = probability

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror some images; see ``Augmentation``."""
        flipped = torch.rand(len(images), generator=generator, device=images.device) < self.probability
        return torch.where(flipped[:, None, None, None], images.flip(3), images)


class Cutout(Augmentation):
    """Sets a random square of every image to zero, the mean of the data.

    The centre of the square is uniform over the image and the square is clipped at the border, so that less is erased
    there.

    References:
        1. DeVries, Taylor: Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
           https://arxiv.org/abs/1708.04552

    Args:
        length: Side of the square in pixels, at least 1 (DARTS: 16 for the 32 pixels of CIFAR).

    Raises:
        ConfigError: ``length`` is below 1.

    Example:
        ```yaml
        augmentations:
          - class_path: Cutout
            init_args:
              length: 8
        ```
    """

    after_normalization = True

    def __init__(self, length: int = 16) -> None:
        at_least(1, length=length)
        self.length = length

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Erase a square of every image; see ``Augmentation``."""
        batch, _, height, width = images.shape
        device = images.device

        def inside(size: int) -> Tensor:
            """Which of ``size`` rows or columns the square of each image covers, bool ``(batch, size)``."""
            start = torch.randint(size, (batch, 1), generator=generator, device=device) - self.length // 2
            position = torch.arange(size, device=device)
            return (start <= position) & (position < start + self.length)

        square = inside(height)[:, None, :, None] & inside(width)[:, None, None, :]
        return images.masked_fill(square, 0)
