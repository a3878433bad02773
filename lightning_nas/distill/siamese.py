"""One random change for real and synthetic images alike."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.errors import ConfigError


class SiameseAugmentation:
    """Differentiable siamese augmentation: a step's real and synthetic images all get the same random change.

    Every step draws one of the changes whose strength is above 0 and its parameters once for all images, so that what
    is matched differs by the images alone. Gradients pass through to the images. Geometry is one bilinear resampling
    of the batch, and what comes from outside of an image is 0, the mean of normalised data.

    References:
        1. Zhao, Bilen: Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021,
           https://arxiv.org/abs/2102.08259

    Args:
        flip: Probability that the images are mirrored, if this change is drawn (the paper: 0.5).
        shift: Largest shift, as a fraction of the side (the paper: 0.125).
        scale: Largest factor of the size, at least 1, or 0 (the paper: 1.2, for either side).
        rotation: Largest rotation in degrees, up to 180 (the paper: 15).
        cutout: Side of the square set to 0, as a fraction of the image's, up to 1 (the paper: 0.5).
        brightness: Width of the interval around 0 that is added (the paper: 1, on its scale).
        saturation: Largest factor of the distance from the grey image (the paper: 2).
        contrast: Half width of the interval around 1 that the distance from the mean is multiplied by (the paper: 0.5).

    Raises:
        ConfigError: A strength is out of its range.
    """

    def __init__(
        self,
        flip: float = 0.5,
        shift: float = 0.125,
        scale: float = 1.2,
        rotation: float = 15.0,
        cutout: float = 0.5,
        brightness: float = 1.0,
        saturation: float = 2.0,
        contrast: float = 0.5,
    ) -> None:
        most = {"flip": 1.0, "shift": 1.0, "scale": math.inf, "rotation": 180.0, "cutout": 1.0}
        most |= {"brightness": math.inf, "saturation": math.inf, "contrast": 1.0}
        strengths = [flip, shift, scale, rotation, cutout, brightness, saturation, contrast]
        for (name, limit), value in zip(most.items(), strengths, strict=True):
            if not 0 <= value <= limit or (name == "scale" and 0 < value < 1):
                low = "0, or from 1" if name == "scale" else "from 0"
                raise ConfigError(f"{name} is {value}; it must be {low} to {limit}.")
        self.flip = flip
        self.shift = shift
        self.scale = scale
        self.rotation = rotation
        self.cutout = cutout
        self.brightness = brightness
        self.saturation = saturation
        self.contrast = contrast
        colour = self._color if brightness or saturation or contrast else None
        changes = [
            (flip, self._flip),
            (shift, self._shift),
            (scale, self._scale),
            (rotation, self._rotate),
            (cutout, self._cut),
            (1.0, colour),
        ]
        self._changes: list[Callable[[Tensor, torch.Generator], Tensor]] = [c for on, c in changes if on and c]

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Change all images alike.

        Args:
            images: Normalised, ``(batch, channels, height, width)``.
            seed: The same seed changes other images in the same way.

        Returns:
            The same shape, differentiable in ``images``.
        """
        if not self._changes:
            return images
        generator = torch.Generator().manual_seed(seed)
        change = self._changes[int(torch.randint(len(self._changes), (1,), generator=generator))]
        return change(images, generator)

    def _flip(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images.flip(3) if _uniform(generator) < self.flip else images

    def _shift(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        down, right = (round(self.shift * side * (2 * _uniform(generator) - 1)) for side in (height, width))
        # a negative pad cuts off
        return F.pad(images, [right, -right, down, -down])

    def _scale(self, images: Tensor, generator: torch.Generator) -> Tensor:
        low, high = 1 / self.scale, self.scale
        x, y = (low + (high - low) * _uniform(generator) for _ in range(2))
        return _resample(images, [[x, 0.0, 0.0], [0.0, y, 0.0]])

    def _rotate(self, images: Tensor, generator: torch.Generator) -> Tensor:
        angle = math.radians(self.rotation) * (2 * _uniform(generator) - 1)
        sine, cosine = math.sin(angle), math.cos(angle)
        return _resample(images, [[cosine, -sine, 0.0], [sine, cosine, 0.0]])

    def _cut(self, images: Tensor, generator: torch.Generator) -> Tensor:
        inside = []
        for side in images.shape[2:]:
            length = round(self.cutout * side)
            start = int(_uniform(generator) * (side + 1)) - length // 2
            place = torch.arange(side, device=images.device)
            inside.append((start <= place) & (place < start + length))
        return images.masked_fill(inside[0][:, None] & inside[1], 0.0)

    def _color(self, images: Tensor, generator: torch.Generator) -> Tensor:
        images = images + self.brightness * (_uniform(generator) - 0.5)
        if self.saturation:
            grey = images.mean(1, keepdim=True)
            images = grey + (images - grey) * (self.saturation * _uniform(generator))
        mean = images.mean((1, 2, 3), keepdim=True)
        return mean + (images - mean) * (1 + self.contrast * (2 * _uniform(generator) - 1))


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _resample(images: Tensor, rows: list[list[float]]) -> Tensor:
    """Read every output pixel at an affine function of its place, in coordinates from -1 to 1."""
    theta = torch.tensor(rows, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
