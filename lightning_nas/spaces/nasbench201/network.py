"""The ordinary network of a NAS-Bench-201 architecture.

An exported network carries this source code with it, so this file imports only torch and the modules of operations.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.operation_modules import ReLUConvBN, Zero, average_pool
from lightning_nas.spaces.stems import eighth_stem, full_size_stem

NODES = 4
"""Number of nodes of a cell: its input and three sums."""

STAGES = 3
"""Number of stages of cells; each has twice the channels, and half the height and width, of the one before."""

CELL_OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: Zero(1),
    "skip_connect": lambda channels: nn.Identity(),
    "nor_conv_1x1": lambda channels: ReLUConvBN(channels, channels, 1, 1, 0),
    "nor_conv_3x3": lambda channels: ReLUConvBN(channels, channels, 3, 1, 1),
    "avg_pool_3x3": lambda channels: average_pool(1),
}
"""Makers ``channels -> module`` of the published operations, by name, in the published order."""


class NASBench201Cell(nn.Module):
    """A cell whose nodes sum one operation of each node before them; the output is the last node.

    Args:
        operations: Operations of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2. A published operation is given by its
            name, any other as an object whose method ``module`` makes its module.
        channels: Channels of the nodes.
    """

    def __init__(self, operations: Sequence[Any], channels: int) -> None:
        super().__init__()
        pairs = [(node, source) for node in range(1, NODES) for source in range(node)]
        kept = [(*pair, each) for pair, each in zip(pairs, operations, strict=True) if each != "none"]
        self.inputs = [[source for to, source, _ in kept if to == node] for node in range(1, NODES)]
        self.nodes = nn.ModuleList(
            nn.ModuleList(operation_module(each, channels) for to, _, each in kept if to == node)
            for node in range(1, NODES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)`` to the same shape."""
        states = [x]
        for sources, operations in zip(self.inputs, self.nodes.children(), strict=True):
            outputs = [
                operation(states[source]) for source, operation in zip(sources, operations.children(), strict=True)
            ]
            states.append(sum(outputs[1:], outputs[0]) if outputs else torch.zeros_like(x))
        return states[-1]


def operation_module(operation: Any, channels: int) -> nn.Module:
    """Build the module of an operation.

    Args:
        operation: The name of a published operation, or an object with a method ``module``.
        channels: Channels of its input and output.
    """
    if isinstance(operation, str):
        return CELL_OPERATIONS[operation](channels)
    module: nn.Module = operation.module(channels, 1, True)
    return module


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the first of stride 2, beside a pooled shortcut; odd sides are rounded up.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv_a = ReLUConvBN(channels_in, channels, 3, 2, 1)
        self.conv_b = ReLUConvBN(channels, channels, 3, 1, 1)
        self.downsample = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(channels_in, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels_in, height, width)`` to ``(batch, channels, height / 2, width / 2)``."""
        y: Tensor = self.downsample(x) + self.conv_b(self.conv_a(x))
        return y


class NASBench201Network(nn.Module):
    """The published network around one cell: a stem, three stages of cells with residual blocks between them.

    Args:
        operations: Operations of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2; see ``NASBench201Cell``.
        num_classes: Number of classes.
        channels_in: Channels of an image.
        channels: Channels of the first stage; each further stage doubles them.
        cells: Number of cells of a stage.
        imagenet_stem: Whether the stem divides height and width by 8, for images of ImageNet's size.
    """

    def __init__(
        self,
        operations: Sequence[Any],
        num_classes: int,
        channels_in: int = 3,
        channels: int = 16,
        cells: int = 5,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "operations": list(operations),
            "num_classes": num_classes,
            "channels_in": channels_in,
            "channels": channels,
            "cells": cells,
            "imagenet_stem": imagenet_stem,
        }
        """The constructor arguments, from which an export builds the network again."""
        self.stem = (eighth_stem if imagenet_stem else full_size_stem)(channels_in, channels)
        self.cells = nn.ModuleList()
        for stage in range(STAGES):
            if stage:
                self.cells.append(ResidualBlock(channels, 2 * channels))
                channels *= 2
            self.cells.extend(NASBench201Cell(operations, channels) for _ in range(cells))
        self.lastact = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels_in, height, width)`` to logits ``(batch, classes)``."""
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.lastact(x), 1).flatten(1))
        return logits
