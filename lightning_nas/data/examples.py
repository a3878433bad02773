"""Images before and after their preparation, by which an exported preprocessing is checked."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from torch import Tensor

from lightning_nas.data.sets import LabelledImages

Resize = Literal["bilinear", "area"]
"""How an image gets the height and width of a set.

``bilinear``: the shorter side is scaled to fit, by bilinear interpolation with antialiasing as Pillow does it, and the
image is cropped at its centre. ``area``: every new pixel is the mean of the pixels that it covers. An image that has
the size already stays as it is.
"""


class Originals:
    """Images as they are read, one at a time, since large ones may not fit into memory together.

    Args:
        images: The images.
    """

    def __init__(self, images: LabelledImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.images.original(index) for index in range(len(self.images)))


class Examples(NamedTuple):
    """Images before and after a data module has prepared them for a network.

    Attributes:
        originals: Images as they are read, ``(channels, height, width)`` each, of any size.
        prepared: What the network gets, floats ``(n, channels, height, width)``.
    """

    originals: Originals
    prepared: Tensor
