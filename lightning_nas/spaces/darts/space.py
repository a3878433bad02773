"""The DARTS space (Liu et al., 2019): two cell types, each a graph with two chosen inputs a node."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import AllowedNames, DifferentiableSpace, Graph
from lightning_nas.spaces.darts.network import DARTSNetwork
from lightning_nas.spaces.darts.supernet import DARTSSupernet
from lightning_nas.spaces.operations import (
    ALL_OPERATIONS,
    BUILT_IN,
    OPERATIONS,
    Operation,
    find_operations,
    operation_argument,
)
from lightning_nas.spaces.rebuildable import PlainForm

MOST_NODES = 64
"""Inner nodes of the largest cell: its alphas, supernet and drawing still fit any machine."""


class Genotype(NamedTuple):
    """The published form of a pair of cells: ``(operation, source)`` pairs, two a node in the order of the nodes."""

    normal: list[tuple[str, int]]
    normal_concat: list[int]
    reduce: list[tuple[str, int]]
    reduce_concat: list[int]


class DARTSSpace(DifferentiableSpace):
    """The DARTS space.

    A cell has two inputs (the outputs of the two cells before) and ``nodes`` inner nodes. Node i reads two of the
    ``2 + i`` states before it, each through one operation other than ``none``, and sums them; the cell's output is the
    concatenation of the inner nodes. In the supernet, every node reads all states before it, and an edge is the
    weighted sum of all operations. Reduction cells stand at one and two thirds of the depth.

    Choices of an architecture: for the normal cell, then the reduction cell, for every node, its two
    ``(source, operation)`` pairs.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055
        2. Xu et al.: PC-DARTS: Partial Channel Connections, ICLR 2020, https://arxiv.org/abs/1907.05737

    Args:
        nodes: Inner nodes of a cell, from 1 to ``MOST_NODES`` (the paper: 4).
        operations: Names from ``lightning_nas.spaces.operations.ALL_OPERATIONS``.
        channels: Channels of the supernet's first cell (the paper: 16).
        cells: Cells of the supernet (the paper: 8).
        partial_channels: K: a K-th of the channels enters the operations, the others pass (PC-DARTS: 4; 1 is DARTS).
        allowed: For cell types, the names of the operations that each edge may take (edges in the order of the nodes,
            then of their sources); by default all of ``operations``.

    Raises:
        ConfigError: An operation is unknown, a number is no integer or out of range, ``channels`` cannot be divided by
            ``partial_channels``, or ``allowed`` leaves a node with fewer than two inputs.
    """

    cell_types = ("normal", "reduce")

    def __init__(
        self,
        nodes: int = 4,
        operations: Sequence[str | Operation | PlainForm] = tuple(OPERATIONS),
        channels: int = 16,
        cells: int = 8,
        partial_channels: int = 1,
        allowed: AllowedNames | None = None,
    ) -> None:
        self.candidates = find_operations(operations, ALL_OPERATIONS)
        if all(operation.is_none for operation in self.candidates):
            raise ConfigError("A space needs an operation other than 'none'.")
        for name, value in (
            ("nodes", nodes),
            ("channels", channels),
            ("cells", cells),
            ("partial_channels", partial_channels),
        ):
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r:.50}; it must be an integer from 1 on.")
        if nodes > MOST_NODES:  # edges grow with the square
            raise ConfigError(f"nodes is {nodes!r:.50}; a cell has at most {MOST_NODES}.")
        if channels % partial_channels:
            raise ConfigError(f"channels ({channels}) must be a multiple of partial_channels ({partial_channels}).")
        self.node_count = nodes
        self.operations = tuple(operation.name for operation in self.candidates)
        self.channels = channels
        self.cells = cells
        self.partial_channels = partial_channels
        starts = [sum(range(2, 2 + i)) for i in range(nodes + 1)]
        self.nodes = tuple(slice(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True))
        self.allowed = self._masks(allowed)
        for name in self.cell_types:
            usable = self._usable(name).any(dim=1)
            for i, node in enumerate(self.nodes):
                if usable[node].sum() < 2:
                    raise ConfigError(
                        f"allowed[{name!r}] leaves node {i} with {int(usable[node].sum())} inputs that have an "
                        "operation other than 'none'; a node keeps two. Allow operations on more of its edges."
                    )

    def _usable(self, cell_type: str) -> Tensor:
        """What an architecture may take, bool ``(edges, operations)``: what is allowed, ``none`` apart."""
        usable = self.allowed[cell_type].clone()
        if self.none is not None:
            usable[:, self.none] = False
        return usable

    def restrict(self, allowed: Mapping[str, Tensor]) -> "DARTSSpace":
        """The part of this space in which every edge takes one of some operations; see ``DifferentiableSpace``."""
        return DARTSSpace(
            self.node_count, self.candidates, self.channels, self.cells, self.partial_channels, self._narrowed(allowed)
        )

    @property
    def inputs_kept(self) -> int:
        """Edges that a node keeps: two."""
        return 2

    def spec(self) -> SpaceSpec:
        """Number of nodes and operations: neither width nor depth decides which cells there are."""
        arguments = (("nodes", self.node_count), ("operations", operation_argument(self.candidates, BUILT_IN)))
        return SpaceSpec("lightning_nas.spaces.DARTSSpace", arguments)

    def _cells(self, architecture: Architecture) -> dict[str, list[list[tuple[int, int]]]]:
        """``(source, operation)`` pairs by cell type and node."""
        pairs = list(zip(architecture.choices[::2], architecture.choices[1::2], strict=True))
        half = 2 * self.node_count
        cells = {"normal": pairs[:half], "reduce": pairs[half:]}
        return {name: [cell[i : i + 2] for i in range(0, half, 2)] for name, cell in cells.items()}

    def arguments(self) -> dict[str, Any]:
        """See ``SupernetSpace.arguments``."""
        own = {"channels": self.channels, "cells": self.cells, "partial_channels": self.partial_channels}
        return {**super().arguments(), **own}

    @property
    def num_values(self) -> tuple[int, ...]:
        """A source and an operation for both inputs of every node, in both cells."""
        cell = [(2 + node, len(self.operations)) * 2 for node in range(self.node_count)]
        return tuple(value for node in cell * 2 for value in node)

    def check(self, architecture: Architecture) -> None:
        """Raise ``ArchitectureError`` unless the architecture is a point of this space."""
        self.check_spec(architecture)
        if len(architecture.choices) != 8 * self.node_count:
            raise ArchitectureError(
                f"{len(architecture.choices)} choices; {self.node_count} nodes in two cells take {8 * self.node_count}."
            )
        for name, cell in self._cells(architecture).items():
            for i, node in enumerate(cell):
                sources = {source for source, _ in node}
                if len(sources) != 2 or not sources <= set(range(2 + i)):
                    raise ArchitectureError(
                        f"Node {i} of the {name} cell reads {[s for s, _ in node]}; it takes two different sources "
                        f"below {2 + i}."
                    )
                for source, operation in node:
                    usable = self._usable(name)[self.nodes[i].start + source].nonzero().flatten().tolist()
                    if operation not in usable:
                        raise ArchitectureError(
                            f"Node {i} of the {name} cell has operation {operation} on its input {source}; it takes "
                            f"one of {usable}, indices into {self.operations}."
                        )

    def key(self, architecture: Architecture) -> str:
        """Canonical identity: the pairs of a node in the order of their sources."""
        self.check(architecture)
        cells = self._cells(architecture)
        return "|".join(
            ";".join(",".join(f"{s}:{o}" for s, o in sorted(node)) for node in cells[name]) for name in self.cell_types
        )

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw two different sources and two operations a node, uniformly over all that is allowed."""
        choices: list[int] = []
        for name in self.cell_types:
            usable = self._usable(name)
            for edges in self.nodes:
                counts = usable[edges].sum(dim=1).double()
                # a pair of sources has as many architectures as the product of its operations
                pairs = torch.combinations(torch.arange(len(counts)))
                pair = pairs[torch.multinomial(counts[pairs].prod(dim=1), 1, generator=generator)[0]]
                for source in pair.tolist():
                    operations = usable[edges.start + source].nonzero().flatten()
                    choices += [source, int(operations[torch.randint(len(operations), (1,), generator=generator)])]
        return self.architecture(choices)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures with one other operation or one other source."""
        self.check(architecture)
        choices = architecture.choices
        for i in range(0, len(choices), 2):
            usable = self._usable(self.cell_types[i // (4 * self.node_count)])[self.nodes[i // 4 % self.node_count]]
            other = choices[i + 2 if i % 4 == 0 else i - 2]
            for source in range(len(usable)):
                if source not in (choices[i], other) and usable[source, choices[i + 1]]:
                    yield self.architecture((*choices[:i], source, *choices[i + 1 :]))
            for operation in usable[choices[i]].nonzero().flatten().tolist():
                if operation != choices[i + 1]:
                    yield self.architecture((*choices[: i + 1], operation, *choices[i + 2 :]))

    def largest(self) -> Architecture:
        """The operation with most parameters on every kept edge; sources are the first two with the most."""
        counts = torch.tensor(
            [sum(p.numel() for p in operation.module(16, 1, True).parameters()) for operation in self.candidates]
        )
        return self.select({name: counts.expand(self.edges, -1) for name in self.cell_types})

    def _check_images(self, image_shape: Sequence[int], cells: int, stem: int, auxiliary: bool) -> None:
        _, height, width = image_shape
        reductions = len({cells // 3, 2 * cells // 3} & set(range(cells)))
        least = stem * 2**reductions * (8 if auxiliary and stem == 1 else 7 if auxiliary else 1)
        if min(height, width) < least:
            raise DataError(
                f"Images of {height}x{width} pixels are too small: {cells} cells with {reductions} reductions"
                f"{' and an auxiliary head' if auxiliary else ''} need at least {least}x{least}. "
                "Use larger images, fewer cells, or no auxiliary head."
            )

    def network(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        image_shape: Sequence[int],
        channels: int = 36,
        cells: int = 20,
        auxiliary: bool = False,
        imagenet_stem: bool = False,
    ) -> DARTSNetwork:
        """Build the ordinary network of an architecture; see ``SearchSpace.network``.

        Args:
            architecture: A point of this space.
            num_classes: Width of the classifier.
            image_shape: ``(channels, height, width)`` of an image.
            channels: Channels of the first cell's operations.
            cells: Number of cells.
            auxiliary: Whether to add an auxiliary classifier for training.
            imagenet_stem: Whether the stem divides height and width by 8.

        Raises:
            ArchitectureError: The architecture is of another space.
            DataError: The images are too small.
        """
        self.check(architecture)
        self._check_images(image_shape, cells, 8 if imagenet_stem else 1, auxiliary)
        named = {
            name: [[(self.operations[o], s) for s, o in node] for node in cell]
            for name, cell in self._cells(architecture).items()
        }
        return DARTSNetwork(
            **named,
            num_classes=num_classes,
            channels_in=image_shape[0],
            channels=channels,
            cells=cells,
            auxiliary=auxiliary,
            imagenet_stem=imagenet_stem,
        )

    def supernet(
        self, *, num_classes: int, image_shape: Sequence[int], attention: Attention | None = None
    ) -> DARTSSupernet:
        """Build the supernet; see ``DifferentiableSpace.supernet``."""
        self._check_images(image_shape, self.cells, 1, False)
        return DARTSSupernet(
            self.candidates,
            self.allowed,
            self.node_count,
            num_classes,
            image_shape[0],
            self.channels,
            self.cells,
            self.partial_channels,
            attention,
        )

    def select(self, scores: Mapping[str, Tensor]) -> Architecture:
        """For every node the two edges with the highest-scored operation, and that operation; ``none`` never counts."""
        choices: list[int] = []
        for name in self.cell_types:
            usable = scores[name].detach().double().cpu().masked_fill(~self._usable(name), -torch.inf)
            best, operation = usable.max(dim=1)
            for edges in self.nodes:
                top = best[edges].argsort(descending=True, stable=True)[:2].sort().values
                for source in top.tolist():
                    choices += [source, int(operation[edges.start + source])]
        return self.architecture(choices)

    def chosen(self, architecture: Architecture) -> dict[str, list[tuple[int, int]]]:
        """The kept ``(edge, operation)`` pairs of every cell type, as indices into the alphas."""
        self.check(architecture)
        return {
            name: [(edges.start + s, o) for edges, node in zip(self.nodes, cell, strict=True) for s, o in node]
            for name, cell in self._cells(architecture).items()
        }

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """The two cells for drawing."""
        self.check(architecture)
        inner = [str(i) for i in range(self.node_count)]
        output = 2 + self.node_count
        return [
            Graph(
                name,
                ("c_{k-2}", "c_{k-1}", *inner, "c_{k}"),
                tuple((s, 2 + i, self.operations[o]) for i, node in enumerate(cell) for s, o in node)
                + tuple((2 + i, output, "") for i in range(self.node_count)),
            )
            for name, cell in self._cells(architecture).items()
        ]

    def text(self, architecture: Architecture) -> str:
        """The published textual form, ``Genotype(normal=[...], ...)``."""
        self.check(architecture)
        pairs = {
            name: [(self.operations[o], s) for node in cell for s, o in node]
            for name, cell in self._cells(architecture).items()
        }
        concat = list(range(2, 2 + self.node_count))
        return str(Genotype(pairs["normal"], concat, pairs["reduce"], concat))

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read the published textual form; ``range(2, 6)`` is understood as well as ``[2, 3, 4, 5]``.

        Args:
            text: ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=..., reduce=..., reduce_concat=...)``.

        Raises:
            ArchitectureError: The text is no genotype, or no point of a space with all operations.
        """
        try:
            call = ast.parse(text.strip(), mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Genotype":
                raise ValueError("it is not Genotype(...)")
            fields = dict(zip(Genotype._fields, (_value(v) for v in call.args), strict=False))
            fields |= {str(k.arg): _value(k.value) for k in call.keywords}
            genotype = Genotype(**fields)  # type: ignore[arg-type]  # what does not fit is found below
            nodes = len(genotype.normal) // 2
            if {tuple(genotype.normal_concat), tuple(genotype.reduce_concat)} != {tuple(range(2, 2 + nodes))}:
                raise ValueError(f"the output must concatenate all {nodes} inner nodes")
            names = tuple(OPERATIONS)
            choices = [
                v for cell in (genotype.normal, genotype.reduce) for name, s in cell for v in (s, names.index(name))
            ]
        except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:  # the last two: too deep
            raise ArchitectureError(f"Not a genotype: {error}; received {text[:120]!r}.") from None
        return cls(nodes=nodes).architecture(choices)


def _value(node: ast.expr) -> list[tuple[str, int]] | list[int]:
    """A literal, or ``range`` of literals."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        return list(islice(range(*(ast.literal_eval(a) for a in node.args)), MOST_NODES + 1))
    return list(ast.literal_eval(node))
