"""The size search space of NATS-Bench: one cell, and the widths of five layers.

An exported network carries the source code of its class with it, so the networks need only torch and the modules of
NAS-Bench-201.
"""

from collections.abc import Sequence
from math import log
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError
from lightning_nas.spaces.base import Features
from lightning_nas.spaces.nasbench201.network import ResidualBlock
from lightning_nas.spaces.operation_modules import ReLUConvBN
from lightning_nas.spaces.product import ProductSpace

WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64)
"""Channels that a layer may have."""

LAYERS = 5
"""Number of layers: three cells, and a residual block after the first and the second one."""


class SizeCell(nn.Module):
    """The cell of all architectures, whose edges from the input may change the number of channels.

    It is a cell of NAS-Bench-201 with a skip connection from the input to the output, and 3x3 convolutions on all other
    edges. Where the number of channels changes, the skip connection is a 1x1 convolution with batch norm.

    Args:
        channels_in: Channels of the input.
        channels: Channels of all other nodes.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.edge_10 = ReLUConvBN(channels_in, channels, 3, 1, 1)
        self.edge_20 = ReLUConvBN(channels_in, channels, 3, 1, 1)
        self.edge_21 = ReLUConvBN(channels, channels, 3, 1, 1)
        self.edge_31 = ReLUConvBN(channels, channels, 3, 1, 1)
        self.edge_32 = ReLUConvBN(channels, channels, 3, 1, 1)
        self.skip = nn.Sequential()
        if channels_in != channels:
            self.skip.extend([nn.Conv2d(channels_in, channels, 1, bias=False), nn.BatchNorm2d(channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels_in, height, width)`` to ``(batch, channels, height, width)``."""
        first: Tensor = self.edge_10(x)
        second: Tensor = self.edge_20(x) + self.edge_21(first)
        third: Tensor = self.skip(x) + self.edge_31(first) + self.edge_32(second)
        return third


class NATSBenchSizeNetwork(nn.Module):
    """The published network of five layers.

    Args:
        widths: Channels of the layers; the stem has those of the first one.
        num_classes: Number of classes.
        channels_in: Channels of an image.
    """

    def __init__(self, widths: Sequence[int], num_classes: int = 10, channels_in: int = 3) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "widths": list(widths),
            "num_classes": num_classes,
            "channels_in": channels_in,
        }
        """The constructor arguments, from which an export builds the network again."""
        self.stem = nn.Sequential(
            nn.Conv2d(channels_in, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        )
        before = [widths[0], *widths]
        self.layers = nn.Sequential(
            *(
                ResidualBlock(before[layer], width) if layer % 2 else SizeCell(before[layer], width)
                for layer, width in enumerate(widths)
            )
        )
        self.lastact = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels_in, height, width)`` to logits ``(batch, classes)``."""
        x = self.lastact(self.layers(self.stem(x)))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class NATSBenchSizeSpace(ProductSpace):
    """The 32,768 architectures of NATS-Bench's size search space: eight widths for each of five layers.

    The layers are three cells with a residual block after the first and the second one, which halves height and width.
    All architectures have the same cell. The text of an architecture is its published name, the widths of the layers
    with colons between them, such as ``8:16:32:48:64``.

    Networks have these widths, whatever their size elsewhere. They take images of any size.

    References:
        1. Dong, Liu, Musial, Gabrys: NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size,
           TPAMI 2021, https://arxiv.org/abs/2009.00437

    Example:
        ```python
        space = NATSBenchSizeSpace()
        network = space.network(space.parse("8:16:32:48:64"), num_classes=10, image_shape=(3, 32, 32))
        ```
    """

    @property
    def values(self) -> Sequence[Sequence[str]]:
        """Widths that every layer may have."""
        return (tuple(map(str, WIDTHS)),) * LAYERS

    def widths(self, architecture: Architecture) -> list[int]:
        """Return the widths of the layers.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        return [WIDTHS[choice] for choice in architecture.choices]

    def parse(self, name: str) -> Architecture:
        """Return the architecture with a published name.

        Args:
            name: Five widths with colons between them.

        Raises:
            ArchitectureError: It is something else.
        """
        choices = {str(width): choice for choice, width in enumerate(WIDTHS)}
        given = name.split(":")
        if len(given) != LAYERS or not all(width in choices for width in given):
            raise ArchitectureError(f"{name!r:.100} is not a name such as 8:16:32:48:64, of five widths of {WIDTHS}.")
        return self.architecture([choices[width] for width in given])

    def features(self, architecture: Architecture) -> Features:
        """Return the widths of the layers, and their logarithms.

        Args:
            architecture: A point of this space.
        """
        widths = self.widths(architecture)
        return {
            "widths": {str(layer): width / WIDTHS[-1] for layer, width in enumerate(widths)},
            "logarithms": {str(layer): log(width / WIDTHS[0]) for layer, width in enumerate(widths)},
        }

    def network(
        self, architecture: Architecture, *, num_classes: int, image_shape: Sequence[int]
    ) -> NATSBenchSizeNetwork:
        """See ``SearchSpace.network``."""
        return NATSBenchSizeNetwork(self.widths(architecture), num_classes, image_shape[0])
