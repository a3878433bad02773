"""The way from pixels of any size to what a network was trained on, as a module that exports with it."""

import torch
from torch import Tensor, nn


class Preprocessing(nn.Module):
    """Resizes, crops and normalizes raw images, like the data module that the network was trained with.

    The resizing is a product with two matrices, so that it is the same in every format for images of any height and
    width. Nothing is rounded to whole pixel values. The result therefore differs from that of Pillow, which rounds
    twice, by up to one of 255 levels, and does not differ for images that have the size already.

    Args:
        image_shape: ``(channels, height, width)`` that the network expects.
        mean: Mean of every channel of images in [0, 1].
        std: Standard deviation of every channel of images in [0, 1].
        resize: ``bilinear``: the shorter side is scaled to fit, by bilinear interpolation with antialiasing, and the
            image is cropped at its center. ``area``: every new pixel is the mean of the pixels that it covers.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, image_shape: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...], resize: str = "bilinear"
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.resize = resize
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Prepare uint8 images ``(batch, channels, any height, any width)`` for the network."""
        channels, height, width = self.image_shape
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(
                f"The images are {images.dtype} {tuple(images.shape)}; expected torch.uint8 "
                f"(batch, {channels}, height, width) with values from 0 to 255."
            )
        pixels = images.to(self.mean.dtype)
        rows = torch.arange(pixels.shape[2], dtype=pixels.dtype, device=pixels.device) + 0.5
        columns = torch.arange(pixels.shape[3], dtype=pixels.dtype, device=pixels.device) + 0.5
        if self.resize == "area":
            vertical, horizontal = _area_weights(rows, height), _area_weights(columns, width)
        else:
            tall, wide = rows[-1] + 0.5, columns[-1] + 0.5
            vertical = _bilinear_weights(rows, torch.minimum(tall, wide * (height / width)), height)
            horizontal = _bilinear_weights(columns, torch.minimum(wide, tall * (width / height)), width)
        return (vertical @ pixels @ horizontal.T / 255 - self.mean) / self.std


def _bilinear_weights(centers: Tensor, kept: Tensor, size: int) -> Tensor:
    """Weights ``(size, pixels)`` of old pixels in the new ones, of which the middle ``kept`` are cropped and scaled."""
    scale = kept / size
    start = (centers[-1] + 0.5 - kept) / 2
    places = start + (torch.arange(size, dtype=centers.dtype, device=centers.device) + 0.5) * scale
    weights = (1 - (centers - places[:, None]).abs() / scale.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


def _area_weights(centers: Tensor, size: int) -> Tensor:
    """Weights ``(size, pixels)`` of old pixels in the new ones, each of which is the mean of those that it covers."""
    edges = torch.arange(size + 1, dtype=centers.dtype, device=centers.device) * (centers[-1] + 0.5) / size
    first, last = edges[:-1].floor()[:, None], edges[1:].ceil()[:, None]
    covered = ((centers > first) & (centers < last)).to(centers.dtype)
    return covered / covered.sum(dim=1, keepdim=True)
