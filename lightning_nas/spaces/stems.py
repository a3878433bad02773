"""Stems of networks of cells: the layers between the images and the first cell.

An exported network carries the source code of its stem with it, so the stems need only torch and the modules of
operations.
"""

from torch import nn

from lightning_nas.checks import at_least, one_of
from lightning_nas.spaces.operation_modules import ReLUConvBN

STEMS = {"cifar": 1, "imagenet": 8}
"""By how much each stem divides height and width."""


def check_stem(stem: str, channels: int) -> None:
    """Refuse an unknown stem, and one that cannot have its channels.

    Args:
        stem: Name of the stem.
        channels: Channels of the first cell.

    Raises:
        ConfigError: The name is unknown, or the stem for large images has fewer than 2 channels.
    """
    one_of(list(STEMS), stem="null" if stem is None else stem)  # a file may give any value
    if stem == "imagenet":
        at_least(2, channels=channels)


def full_size_stem(channels_in: int, channels: int) -> nn.Sequential:
    """Return one convolution and its batch norm, which keep height and width."""
    return nn.Sequential(nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


def quarter_stem(channels_in: int, channels: int) -> nn.Sequential:
    """Return the first two of the three strided convolutions for ImageNet, which divide height and width by 4."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels // 2, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels // 2),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )


def eighth_stem(channels_in: int, channels: int) -> nn.Sequential:
    """Return all three strided convolutions for ImageNet, which divide height and width by 8."""
    return nn.Sequential(*quarter_stem(channels_in, channels), *ReLUConvBN(channels, channels, 3, 2, 1).op)
