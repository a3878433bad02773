"""One random change for all real and synthetic images of a step."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.checks import at_least, within


class SiameseAugmentation:
    """Differentiable siamese augmentation: all real and synthetic images of a step get the same random change.

    Every step draws one change among those whose strength is above 0, with its parameters, once for all images. What is
    matched then differs by the images alone. Gradients pass through to the images. Geometric changes resample the batch
    bilinearly; pixels from outside of an image are 0, the mean of normalized data.

    References:
        1. Zhao, Bilen: Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021,
           https://arxiv.org/abs/2102.08259

    Args:
        flip: Probability of mirroring the images left to right when this change is drawn, from 0 to 1 (the paper: 0.5).
            Set it to 0 where left and right matter, as in digits.
        shift: Largest shift as a fraction of the side, from 0 to 1 (the paper: 0.125).
        scale: Largest factor by which height and width change, each by its own draw, at least 1; 0 leaves scaling out
            (the paper: 1.2).
        rotation: Largest rotation in degrees, from 0 to 180 (the paper: 15).
        cutout: Side of the square that is set to 0, as a fraction of the image's side, from 0 to 1 (the paper: 0.5).
        brightness: Width of the interval around 0 from which an offset of all values is drawn, at least 0 (the paper:
            1).
        saturation: Largest factor of the difference from the grey image, at least 0 (the paper: 2).
        contrast: Half the width of the interval around 1 from which a factor of the difference from the image's mean is
            drawn, from 0 to 1 (the paper: 0.5).

    Raises:
        ConfigError: A strength is out of its range.

    Attributes:
        changes: The changes among which every step draws; each maps images and a generator to images.

    Example:
        ```yaml
        augmentation:
          class_path: SiameseAugmentation
          init_args:
            flip: 0.0
            rotation: 10.0
        ```
    """

    def __init__(
        self,
        flip: float = 0.5,
        *,
        shift: float = 0.125,
        scale: float = 1.2,
        rotation: float = 15.0,
        cutout: float = 0.5,
        brightness: float = 1.0,
        saturation: float = 2.0,
        contrast: float = 0.5,
    ) -> None:
        within("[0, 1]", flip=flip, shift=shift, cutout=cutout, contrast=contrast)
        within("[0, 180]", rotation=rotation)
        at_least(0, brightness=brightness, saturation=saturation)
        if scale != 0:
            at_least(1, scale=scale)
        self.flip = flip
        self.shift = shift
        self.scale = scale
        self.rotation = rotation
        self.cutout = cutout
        self.brightness = brightness
        self.saturation = saturation
        self.contrast = contrast
        color = self._color if brightness or saturation or contrast else None
        changes = [
            (flip, self._flip),
            (shift, self._shift),
            (scale, self._scale),
            (rotation, self._rotate),
            (cutout, self._cut),
            (1.0, color),
        ]
        self.changes: list[Callable[[Tensor, torch.Generator], Tensor]] = [c for on, c in changes if on and c]

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Change all images in the same way.

        Args:
            images: Normalized images ``(batch, channels, height, width)``.
            seed: Seed of the change. The same seed changes other images in the same way.

        Returns:
            Images of the same shape, differentiable in ``images``.
        """
        if not self.changes:
            return images
        generator = torch.Generator().manual_seed(seed)
        change = self.changes[int(torch.randint(len(self.changes), (1,), generator=generator))]
        return change(images, generator)

    def _flip(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images.flip(3) if _uniform(generator) < self.flip else images

    def _shift(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[2:]
        down, right = (round(self.shift * side * (2 * _uniform(generator) - 1)) for side in (height, width))
        # negative padding crops
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
    """Read every output pixel at an affine function of its position, in coordinates from -1 to 1."""
    theta = torch.tensor(rows, dtype=images.dtype).to(images.device, non_blocking=True).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
