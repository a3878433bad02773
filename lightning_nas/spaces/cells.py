"""How cells are built and stacked, and the ordinary network of an architecture.

An exported network carries this source code with it, so everything here needs only torch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.operations import Operation
from lightning_nas.spaces.rebuildable import Rebuildable


@dataclass(frozen=True)
class CellGraph:
    """The states of a cell and the edges between them.

    The states are numbered: first the inputs of the cell, then its inner nodes. The edges are numbered node by node,
    and for each node in the order of its sources.

    Args:
        inputs: Number of inputs: 1 for the output of the layer before, 2 for the outputs of the two layers before,
            the later one last, and so on.
        sources: For every inner node, the states that it can read, in ascending order. A node can read the inputs and
            the nodes before it.
        output: ``concatenate`` if the output of the cell is the concatenation of all inner nodes, ``last`` if it is the
            last one.

    Raises:
        ConfigError: A node reads a state twice or one that is not before it, or reads none; or ``output`` is unknown.
    """

    inputs: int
    sources: tuple[tuple[int, ...], ...]
    output: str = "concatenate"

    def __post_init__(self) -> None:
        """Check the graph."""
        for node, read in enumerate(self.sources):
            if not read or list(read) != sorted(set(read)) or read[0] < 0 or read[-1] >= self.inputs + node:
                raise ConfigError(
                    f"Node {node} reads the states {list(read)}; expected different states below "
                    f"{self.inputs + node}, in ascending order."
                )
        if self.output not in ("concatenate", "last"):
            raise ConfigError(f"output is {self.output!r}; it must be 'concatenate' or 'last'.")

    @property
    def nodes(self) -> tuple[slice, ...]:
        """For every inner node, the slice of its edges."""
        starts = [sum(len(read) for read in self.sources[:node]) for node in range(len(self.sources) + 1)]
        return tuple(slice(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True))

    def channels_out(self, channels: int) -> int:
        """Return the number of channels of a cell's output.

        Args:
            channels: Channels of its states.
        """
        return channels * len(self.sources) if self.output == "concatenate" else channels

    def join(self, nodes: Sequence[Tensor]) -> Tensor:
        """Return the output of a cell.

        Args:
            nodes: The inner nodes, ``(batch, channels, height, width)`` each.
        """
        return torch.cat(list(nodes), dim=1) if self.output == "concatenate" else nodes[-1]


class Place(NamedTuple):
    """A cell in a stack of layers.

    Attributes:
        cell_type: Which type of cell stands here.
        channels: Channels of the states of the cell.
        stride: Stride of the edges that leave the inputs of the cell: 1 keeps height and width, 2 halves them.
        inputs: For every input, a module that turns the output of a layer before into a state of the cell.
    """

    cell_type: str
    channels: int
    stride: int
    inputs: Sequence[nn.Module]


class Layers(NamedTuple):
    """The layers of a network.

    Attributes:
        stem: Module for the images ``(batch, channels_in, height, width)``. All inputs of the first cell come from its
            output, unless there is a ``stem_2``.
        body: Cells, and modules that stand between them and read the output of the layer before.
        head: Module that maps the output of the last layer to logits ``(batch, classes)``.
        stem_2: Module for the output of ``stem``, which may be smaller: the newest input of the first cell comes from
            it. None if all inputs of the first cell come from ``stem``.
    """

    stem: nn.Module
    body: list[Place | nn.Module]
    head: nn.Module
    stem_2: nn.Module | None = None


class Stack(Rebuildable, ABC):
    """How the cells of a space are stacked to a network: the layers before, between and after them.

    The same stack is used for supernets and for the networks of architectures. Keep each constructor argument of a
    subclass as the attribute of the same name. If found networks shall be exported as one plain Python file, the module
    that defines the subclass imports nothing but torch, the standard library and modules that do the same.
    """

    @abstractmethod
    def layers(
        self, graph: CellGraph, *, channels_in: int, num_classes: int, channels: int, cells: int, affine: bool
    ) -> Layers:
        """Build the layers; cells are only named, by their places.

        Args:
            graph: States and edges of the cells.
            channels_in: Channels of an image.
            num_classes: Number of classes.
            channels: Channels of the first cell.
            cells: Number of cells.
            affine: Whether batch norms at the inputs of cells have affine parameters: true in the network of an
                architecture, false in a supernet.
        """


def first_states(x: Tensor, inputs: int, stem: nn.Module, stem_2: nn.Module | None) -> list[Tensor]:
    """Return what the first cell reads.

    Args:
        x: Images ``(batch, channels_in, height, width)``.
        inputs: Number of inputs of a cell.
        stem: See ``Layers``.
        stem_2: See ``Layers``.
    """
    first = stem(x)
    return [first] * inputs if stem_2 is None else [*[first] * (inputs - 1), stem_2(first)]


class Cell(nn.Module):
    """A cell with fixed operations.

    Args:
        graph: States and edges.
        place: Where the cell stands.
        chosen: For every inner node, its operations and the states that they read.
    """

    def __init__(self, graph: CellGraph, place: Place, chosen: Sequence[Sequence[tuple[Operation, int]]]) -> None:
        super().__init__()
        self.graph = graph
        self.inputs = nn.ModuleList(place.inputs)
        self.sources = [[source for _, source in node] for node in chosen]
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                operation.module(place.channels, place.stride if source < graph.inputs else 1, True)
                for operation, source in node
            )
            for node in chosen
        )

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Map the outputs of the layers before to the output of the cell."""
        states = [module(x) for module, x in zip(self.inputs.children(), states, strict=True)]
        for operations, sources in zip(self.nodes.children(), self.sources, strict=True):
            outputs = [module(states[source]) for module, source in zip(operations.children(), sources, strict=True)]
            states.append(sum(outputs[1:], outputs[0]))
        return self.graph.join(states[self.graph.inputs :])


class CellNetwork(nn.Module):
    """The ordinary network of an architecture of a ``CellSpace``.

    Args:
        graph: States and edges of the cells.
        stack: How the cells are stacked.
        chosen: For every cell type and inner node, its operations and the states that they read.
        num_classes: Number of classes.
        channels_in: Channels of an image.
        channels: Channels of the first cell.
        cells: Number of cells.
    """

    def __init__(
        self,
        graph: CellGraph,
        stack: Stack,
        chosen: Mapping[str, Sequence[Sequence[tuple[Operation, int]]]],
        num_classes: int,
        channels_in: int,
        channels: int,
        cells: int,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "graph": graph,
            "stack": stack,
            "chosen": {name: [list(node) for node in cell] for name, cell in chosen.items()},
            "num_classes": num_classes,
            "channels_in": channels_in,
            "channels": channels,
            "cells": cells,
        }
        """The constructor arguments, from which an export builds the network again."""
        layers = stack.layers(
            graph, channels_in=channels_in, num_classes=num_classes, channels=channels, cells=cells, affine=True
        )
        self.inputs = graph.inputs
        self.stem, self.stem_2 = layers.stem, layers.stem_2
        self.cells = nn.ModuleList(
            Cell(graph, layer, chosen[layer.cell_type]) if isinstance(layer, Place) else layer for layer in layers.body
        )
        self.head = layers.head

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels_in, height, width)`` to logits ``(batch, classes)``."""
        states = first_states(x, self.inputs, self.stem, self.stem_2)
        for layer in self.cells.children():
            y = layer(states) if isinstance(layer, Cell) else layer(states[-1])
            states = [*states[1:], y]
        logits: Tensor = self.head(states[-1])
        return logits
