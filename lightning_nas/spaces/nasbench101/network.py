"""The ordinary network of a NAS-Bench-101 architecture.

An exported network carries this source code with it, so this file imports torch and nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STACKS = 3
"""Number of stacks of cells; each has twice the channels, and half the height and width, of the one before."""


class ConvBNReLU(nn.Sequential):
    """Convolution, batch norm with the published constants, ReLU.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
        kernel: Side of the kernel.
    """

    def __init__(self, channels_in: int, channels: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False),
            # TensorFlow's momentum, 0.997, weights the old statistics; PyTorch's weights the new ones
            nn.BatchNorm2d(channels, eps=1e-5, momentum=0.003),
            nn.ReLU(),
        )


CELL_OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "conv3x3-bn-relu": lambda channels: ConvBNReLU(channels, channels, 3),
    "conv1x1-bn-relu": lambda channels: ConvBNReLU(channels, channels, 1),
    "maxpool3x3": lambda channels: nn.MaxPool2d(3, 1, padding=1),
}
"""Makers ``channels -> module`` of the published operations, by name, in the published order."""


def vertex_channels(inputs: Sequence[Sequence[int]], channels: int) -> list[int]:
    """Return the number of channels of every vertex after the input.

    The vertices that the output concatenates share its channels; where they do not divide, the first vertices take one
    more. Every other vertex has as many channels as the widest vertex that reads it.

    Args:
        inputs: The vertices that vertex 1, 2, ... reads, in ascending order; the last vertex is the output.
        channels: Channels of the output.
    """
    last = len(inputs)
    parts = [vertex for vertex in inputs[-1] if vertex]
    widths = [0] * last + [channels]
    for i, vertex in enumerate(parts):
        widths[vertex] = channels // len(parts) + (i < channels % len(parts))
    for vertex in range(last - 1, 0, -1):
        if vertex not in parts:
            widths[vertex] = max(widths[reader] for reader in range(vertex + 1, last) if vertex in inputs[reader - 1])
    return widths[1:]


class NASBench101Cell(nn.Module):
    """A cell: an inner vertex adds the vertices that it reads, and the output concatenates them.

    A vertex that reads the input of the cell reads a projection of it, which is a 1x1 convolution. A vertex that has
    fewer channels than one that it reads takes the first ones.

    Args:
        inputs: The vertices that vertex 1, 2, ... reads, in ascending order; the last vertex is the output.
        operations: Names of the operations of the inner vertices.
        channels_in: Channels of the input of the cell.
        channels: Channels of the output of the cell.
    """

    def __init__(
        self, inputs: Sequence[Sequence[int]], operations: Sequence[str], channels_in: int, channels: int
    ) -> None:
        super().__init__()
        self.widths = vertex_channels(inputs, channels)
        self.inner = [[vertex for vertex in each if vertex] for each in inputs]
        # one list per vertex, which is empty if the vertex does not read the input of the cell
        self.projections = nn.ModuleList(
            nn.ModuleList([ConvBNReLU(channels_in, width, 1)] if 0 in each else [])
            for each, width in zip(inputs, self.widths, strict=True)
        )
        self.operations = nn.ModuleList(
            CELL_OPERATIONS[name](width) for name, width in zip(operations, self.widths[:-1], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels_in, height, width)`` to ``(batch, channels, height, width)``."""
        projections: list[list[Tensor]] = [
            [project(x) for project in each.children()] for each in self.projections.children()
        ]
        states = [x]
        for i, operation in enumerate(self.operations.children()):
            terms = [states[vertex][:, : self.widths[i]] for vertex in self.inner[i]] + projections[i]
            states.append(operation(sum(terms[1:], terms[0])))
        parts = [states[vertex] for vertex in self.inner[-1]]
        terms = [torch.cat(parts, dim=1), *projections[-1]] if parts else projections[-1]
        y: Tensor = sum(terms[1:], terms[0])
        return y


class NASBench101Network(nn.Module):
    """The published network around one cell: a stem, three stacks of cells with max pooling between them.

    Args:
        inputs: The vertices that vertex 1, 2, ... reads, in ascending order; the last vertex is the output.
        operations: Names of the operations of the inner vertices.
        num_classes: Number of classes.
        channels_in: Channels of an image.
        channels: Channels of the first stack; each further stack doubles them.
        cells: Number of cells of a stack.
    """

    def __init__(
        self,
        inputs: Sequence[Sequence[int]],
        operations: Sequence[str],
        num_classes: int,
        channels_in: int = 3,
        channels: int = 128,
        cells: int = 3,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "inputs": [[int(vertex) for vertex in each] for each in inputs],
            "operations": [str(name) for name in operations],
            "num_classes": num_classes,
            "channels_in": channels_in,
            "channels": channels,
            "cells": cells,
        }
        """The constructor arguments, from which an export builds the network again."""
        self.stem = ConvBNReLU(channels_in, channels, 3)
        self.stacks = nn.ModuleList()
        channels_in = channels
        for stack in range(STACKS):
            width = channels * 2**stack
            widths = [channels_in] + [width] * cells
            self.stacks.append(nn.Sequential(*(NASBench101Cell(inputs, operations, w, width) for w in widths[:-1])))
            channels_in = widths[-1]
        self.classifier = nn.Linear(channels_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels_in, height, width)`` to logits ``(batch, classes)``."""
        x = self.stem(x)
        for i, stack in enumerate(self.stacks.children()):
            x = stack(F.max_pool2d(x, 2) if i else x)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits
