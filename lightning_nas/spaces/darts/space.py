"""The DARTS space: two cell types, whose nodes read two chosen inputs each."""

import ast
from collections.abc import Sequence
from typing import Any, NamedTuple

from lightning_nas.architecture import Architecture
from lightning_nas.checks import integer_at_least
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import AllowedNames
from lightning_nas.spaces.cell_space import CellSpace
from lightning_nas.spaces.cells import CellGraph
from lightning_nas.spaces.darts.fused_edges import FusedEdges
from lightning_nas.spaces.darts.network import DARTSNetwork
from lightning_nas.spaces.darts.stack import DARTSStack
from lightning_nas.spaces.darts.supernet import DARTSSupernet
from lightning_nas.spaces.literals import expression, literal, without_name
from lightning_nas.spaces.operations import BUILT_IN, OPERATIONS, Operation
from lightning_nas.spaces.rebuildable import PlainForm
from lightning_nas.spaces.stems import STEMS, check_stem
from lightning_nas.spaces.supernet import Supernet

MAX_NODES = 64
"""Largest number of inner nodes of a cell, with which alphas, supernet and drawing still fit any machine."""


class Genotype(NamedTuple):
    """The published form of two cells: ``(operation, source)`` pairs, two per node in the order of the nodes."""

    normal: list[tuple[str, int]]
    normal_concat: list[int]
    reduce: list[tuple[str, int]]
    reduce_concat: list[int]


class DARTSSpace(CellSpace):
    """The DARTS space: a normal cell and a reduction cell.

    A cell has two inputs, which are the outputs of the two cells before it, and ``nodes`` inner nodes. Node i reads two
    of the ``2 + i`` states before it, each through one operation other than ``none``, and sums the results. The output
    of the cell is the concatenation of its inner nodes. Reduction cells, which halve height and width and double the
    channels, stand at one and two thirds of the depth. In the supernet, every node reads all states before it, and an
    edge is the weighted sum of all operations.

    The supernet computes edges with a common source together (``FusedEdges``). With an operation of your own, it has
    one module per edge and operation (``PerEdgeSupernet``), which is slower.

    Choices of an architecture: for the normal cell, then the reduction cell, for every node, its two ``(source,
    operation)`` pairs.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055
        2. Xu et al.: PC-DARTS: Partial Channel Connections, ICLR 2020, https://arxiv.org/abs/1907.05737

    Example:
        ```yaml
        space:
          class_path: DARTSSpace
          init_args:
            channels: 16
            operations: [none, skip_connect, sep_conv_3x3]
        ```

    Args:
        nodes: Number of inner nodes of a cell, from 1 to ``MAX_NODES`` (the paper: 4).
        operations: The operations: names from ``operations.ALL_OPERATIONS``, or objects of subclasses of ``Operation``;
            by default the eight of the paper.
        channels: Channels of the first cell of the supernet (the paper: 16).
        cells: Number of cells of the supernet (the paper: 8).
        partial_channels: Only a ``partial_channels``-th of the channels enters the operations of the supernet; the
            others pass by (PC-DARTS: 4). 1, the default, is DARTS.
        stem: Layers between the images and the first cell, in the supernet and in networks: ``cifar``, one convolution
            that keeps height and width, or ``imagenet``, the three convolutions of stride 2 of the paper's ImageNet
            networks, with which cells compute at 28x28 for images of 224x224. It is part of the identity of the space:
            networks of its architectures have the same stem.
        allowed: For cell types, the names of the operations that each edge may take (edges in the order of the nodes,
            then of their sources); by default all of ``operations``.

    Raises:
        ConfigError: An operation is unknown or given twice, a number is not an integer or out of range, ``channels`` is
            not a multiple of ``partial_channels``, the stem is unknown or needs more channels, or ``allowed`` leaves a
            node with fewer than two inputs.
    """

    cell_types = ("normal", "reduce")
    later_arguments = ("stem",)
    renames = (
        (r"^(cells\.\d+)\.edges\.(\d+)\.(\d+)\.", r"\1._ops.\2._ops.\3."),
        (r"^(cells\.\d+)\.inputs\.(\d)\.", r"\1.preprocess\2."),
        (r"^head\.2\.", "classifier."),
    )

    def __init__(
        self,
        nodes: int = 4,
        *,
        operations: Sequence[str | Operation | PlainForm] = tuple(OPERATIONS),
        channels: int = 16,
        cells: int = 8,
        partial_channels: int = 1,
        allowed: AllowedNames | None = None,
        stem: str = "cifar",
    ) -> None:
        integer_at_least(1, nodes=nodes)
        if nodes > MAX_NODES:  # the number of edges grows with the square
            raise ConfigError(f"nodes is {nodes!r:.50}; a cell has at most {MAX_NODES}.")
        check_stem(stem, channels)
        self.node_count = nodes
        self.stem = stem
        super().__init__(
            CellGraph(inputs=2, sources=tuple(tuple(range(2 + node)) for node in range(nodes))),
            DARTSStack(stem),
            operations,
            inputs_kept=2,
            channels=channels,
            cells=cells,
            partial_channels=partial_channels,
            allowed=allowed,
        )

    def _constructor_arguments(self) -> dict[str, Any]:
        own = {"channels": self.channels, "cells": self.cells, "partial_channels": self.partial_channels}
        return {"nodes": self.node_count, **own, "stem": self.stem}

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
        imagenet_stem: bool | None = None,
    ) -> DARTSNetwork:
        """Build the ordinary network of an architecture; see ``SearchSpace.network``.

        Args:
            architecture: A point of this space.
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.
            channels: Channels of the first cell (the paper: 36 for CIFAR-10).
            cells: Number of cells (the paper: 20 for CIFAR-10).
            auxiliary: Whether to add an auxiliary classifier for training.
            imagenet_stem: Whether the stem divides height and width by 8, for images of ImageNet's size; by default as
                the ``stem`` of the space says.

        Raises:
            ArchitectureError: The architecture belongs to another space.
            DataError: The images are too small.
        """
        self.check(architecture)
        stem = self.stem if imagenet_stem is None else "imagenet" if imagenet_stem else "cifar"
        check_stem(stem, channels)
        self._check_images(image_shape, cells, STEMS[stem], auxiliary)
        # built-in operations go by name, so that an exported network carries only the code of their modules
        given = [operation.name if operation in BUILT_IN else operation for operation in self.candidates]
        named = {
            name: [[(given[o], s) for s, o in node] for node in cell]
            for name, cell in self._pairs(architecture).items()
        }
        return DARTSNetwork(
            **named,
            num_classes=num_classes,
            channels_in=image_shape[0],
            channels=channels,
            cells=cells,
            auxiliary=auxiliary,
            imagenet_stem=stem == "imagenet",
        )

    def supernet(self, *, num_classes: int, image_shape: Sequence[int], attention: Attention | None = None) -> Supernet:
        """Build the supernet: the fused one where it can compute all operations, otherwise the plain one.

        Args:
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.
            attention: Attention over channels inside the mixtures, or None.

        Raises:
            DataError: The images are too small.
        """
        self._check_images(image_shape, self.cells, STEMS[self.stem], False)
        if not FusedEdges.supports(self.candidates):
            return self.per_edge_supernet(num_classes=num_classes, image_shape=image_shape, attention=attention)
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
            imagenet_stem=self.stem == "imagenet",
        )

    def text(self, architecture: Architecture) -> str:
        """Return the published textual form, ``Genotype(normal=[...], ...)``.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        pairs = {
            name: [(self.operations[o], s) for node in cell for s, o in node]
            for name, cell in self._pairs(architecture).items()
        }
        concat = list(range(2, 2 + self.node_count))
        return str(Genotype(pairs["normal"], concat, pairs["reduce"], concat))

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read a published textual form.

        Args:
            text: ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=..., reduce=..., reduce_concat=...)``,
                with or without a name before it (``DARTS_V2 = Genotype(...)``), or a dictionary with these keys. Pairs
                may be grouped by node, all lists may be tuples, and ``range(2, 6)`` is understood as well as
                ``[2, 3, 4, 5]``.

        Raises:
            ArchitectureError: The text is not a genotype, or not a point of the space with all operations of the paper.
                The message names what is different.
        """
        try:
            genotype = _genotype(expression(without_name(text)))
            cells = [_flat_pairs(cell) for cell in (genotype.normal, genotype.reduce)]
            wrong = _foreign(cells, (genotype.normal_concat, genotype.reduce_concat))
            if wrong:
                raise ArchitectureError(
                    f"Not an architecture of the DARTS space: {'; '.join(wrong)}. Take an architecture of this space."
                )
            names = tuple(OPERATIONS)
            choices = [v for cell in cells for name, s in cell for v in (s, names.index(name))]
        except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:  # the last two: too deep
            said = str(error).partition(" (<unknown>")[0]
            raise ArchitectureError(f"Not a genotype: {said:.200}; received {text[:120]!r}.") from None
        return cls(nodes=len(cells[0]) // 2).architecture(choices)


def _genotype(node: ast.expr) -> Genotype:
    """Read ``Genotype(...)``, or a dictionary with the same keys.

    Raises:
        ValueError: It is something else.
        TypeError: A key is missing or unknown.
    """
    if isinstance(node, ast.Dict):
        return Genotype(**{ast.literal_eval(k): literal(v) for k, v in zip(node.keys, node.values, strict=True) if k})
    if not isinstance(node, ast.Call) or getattr(node.func, "attr", getattr(node.func, "id", "")) != "Genotype":
        raise ValueError("it is not Genotype(...)")
    fields = dict(zip(Genotype._fields, map(literal, node.args), strict=False))
    return Genotype(**{**fields, **{str(k.arg): literal(k.value) for k in node.keywords}})


def _flat_pairs(cell: Any) -> list[tuple[str, int]]:
    """The pairs of a cell, which may be grouped by node.

    Raises:
        ValueError: There are other things than pairs of a name and a number.
    """
    pairs = []
    for each in cell:
        pairs += [each] if len(each) == 2 and isinstance(each[0], str) else list(each)
    for name, source in pairs:
        if not isinstance(name, str) or type(source) is not int:
            raise ValueError(f"{(name, source)!r:.50} is not a pair of an operation and the state that it reads")
    return [(name, source) for name, source in pairs]


def _foreign(cells: Sequence[Sequence[tuple[str, int]]], concats: Sequence[Sequence[int]]) -> list[str]:
    """What a genotype has that no architecture of the DARTS space has."""
    wrong = []
    names = {name for cell in cells for name, _ in cell}
    unknown = sorted(names - set(OPERATIONS))
    if unknown:
        known = ", ".join(name for name in OPERATIONS if name != "none")
        wrong.append(f"it has the operations {', '.join(unknown):.200}; the operations of the space are {known}")
    if "none" in names:
        wrong.append("it has 'none' on an edge; every node reads two states through other operations")
    nodes = [len(cell) // 2 for cell in cells]
    if any(len(cell) % 2 for cell in cells) or nodes[0] != nodes[1] or not nodes[0]:
        wrong.append(
            f"it has {len(cells[0])} pairs in the normal cell and {len(cells[1])} in the reduction cell; both cells "
            "have two per node, and equally many nodes"
        )
    elif any(sorted(concat) != list(range(2, 2 + nodes[0])) for concat in concats):
        lists = " and ".join(f"{list(concat)!r:.80}" for concat in concats)
        wrong.append(
            f"its outputs concatenate the states {lists}; those of the space concatenate all {nodes[0]} inner nodes"
        )
    return wrong
