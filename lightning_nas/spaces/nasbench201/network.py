"""The ordinary network of a NAS-Bench-201 architecture.

Only torch and ``operations`` are imported here: an exported network carries this code with it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.operation_modules import ReLUConvBN, Zero

NODES = 4
"""States of a cell: its input and three sums."""

STAGES = 3
"""Groups of cells; the first of every other one has twice the channels and half the height and width."""

CELL_OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: Zero(1),
    "skip_connect": lambda channels: nn.Identity(),
    "nor_conv_1x1": lambda channels: ReLUConvBN(channels, channels, 1, 1, 0),
    "nor_conv_3x3": lambda channels: ReLUConvBN(channels, channels, 3, 1, 1),
    "avg_pool_3x3": lambda channels: nn.AvgPool2d(3, 1, padding=1, count_include_pad=False),
}
"""From the published name of an operation, in the published order, to its maker ``channels -> module``."""


class NASBench201Cell(nn.Module):
    """A cell: every node sums one operation of each state before it, the output is the last node."""

    def __init__(self, operations: Sequence[str], channels: int) -> None:
        super().__init__()
        pairs = [(node, source) for node in range(1, NODES) for source in range(node)]
        kept = [(*pair, name) for pair, name in zip(pairs, operations, strict=True) if name != "none"]
        self.inputs = [[source for to, source, _ in kept if to == node] for node in range(1, NODES)]
        self.nodes = nn.ModuleList(
            nn.ModuleList(CELL_OPERATIONS[name](channels) for to, _, name in kept if to == node)
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


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the first of stride 2, beside a pooled shortcut; odd sides are rounded up."""

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
    """The published skeleton around one cell: a stem, three stages of cells with residual blocks between them.

    Args:
        operations: Names of the operations of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2.
        num_classes: Width of the classifier.
        channels_in: Channels of an image.
        channels: Channels of the first stage; each other stage doubles them.
        cells: Cells of a stage.
    """

    def __init__(
        self, operations: Sequence[str], num_classes: int, channels_in: int = 3, channels: int = 16, cells: int = 5
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "operations": [str(name) for name in operations],
            "num_classes": num_classes,
            "channels_in": channels_in,
            "channels": channels,
            "cells": cells,
        }
        """What this network was made with, as JSON values: an export makes it again from them."""
        self.stem = nn.Sequential(nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
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
