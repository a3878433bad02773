"""The NAS-Bench-201 space (Dong & Yang, 2020): one cell type, a complete graph of four nodes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import AllowedNames, DifferentiableSpace, Graph
from lightning_nas.spaces.nasbench201.network import CELL_OPERATIONS, NODES, STAGES, NASBench201Network
from lightning_nas.spaces.nasbench201.supernet import NASBench201Supernet


class NASBench201Space(DifferentiableSpace):
    """The NAS-Bench-201 space: 15,625 cells with published results for each.

    A cell has four nodes: its input and three sums. Every node reads all nodes before it, each through one operation,
    and ``none`` may be chosen, too; the last node is the cell's output. A network is three stages of equal cells with
    16, 32 and 64 channels; a residual block that halves height and width stands between two stages.

    Choices of an architecture: the operations of the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2.

    References:
        1. Dong, Yang: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020,
           https://arxiv.org/abs/2001.00326

    Args:
        operations: Names from ``lightning_nas.spaces.nasbench201.network.CELL_OPERATIONS``.
        channels: Channels of the supernet's first stage (the paper: 16).
        cells_per_stage: Cells of each of the supernet's stages (the paper: 5).
        allowed: For the cell type ``cell``, the names of the operations that each edge may take (edges in the order of
            the choices); by default all of ``operations``.

    Raises:
        ConfigError: An operation is unknown or named twice, a number is no integer or below 1, or ``allowed`` leaves an
            edge without operations.
    """

    cell_types = ("cell",)
    nodes = (slice(0, 1), slice(1, 3), slice(3, 6))

    def __init__(
        self,
        operations: Sequence[str] = tuple(CELL_OPERATIONS),
        channels: int = 16,
        cells_per_stage: int = 5,
        allowed: AllowedNames | None = None,
    ) -> None:
        unknown = [name for name in operations if name not in CELL_OPERATIONS]
        if unknown or not operations or len(set(operations)) != len(operations):
            raise ConfigError(
                f"Operations {unknown or list(operations)!s:.300} are none, unknown or named twice; there are "
                f"{list(CELL_OPERATIONS)}."
            )
        for name, value in (("channels", channels), ("cells_per_stage", cells_per_stage)):
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r:.50}; it must be an integer from 1 on.")
        self.operations = tuple(operations)
        self.channels = channels
        self.cells_per_stage = cells_per_stage
        self.allowed = self._masks(allowed)
        empty = (~self.allowed["cell"].any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ConfigError(
                f"allowed['cell'] leaves the edges {empty} without operations; an edge takes one. "
                "Allow 'none' where nothing shall pass."
            )

    @property
    def none(self) -> None:
        """None: here ``none`` is an operation like the others, and may be chosen."""
        return None

    @property
    def inputs_kept(self) -> None:
        """None: a node keeps all its edges."""
        return None

    def restrict(self, allowed: Mapping[str, Tensor]) -> "NASBench201Space":
        """The part of this space in which every edge takes one of some operations; see ``DifferentiableSpace``."""
        return NASBench201Space(self.operations, self.channels, self.cells_per_stage, self._narrowed(allowed))

    def spec(self) -> SpaceSpec:
        """The operations: neither width nor depth decides which cells there are."""
        return SpaceSpec("lightning_nas.spaces.NASBench201Space", (("operations", self.operations),))

    def arguments(self) -> dict[str, Any]:
        """See ``SupernetSpace.arguments``."""
        return {**super().arguments(), "channels": self.channels, "cells_per_stage": self.cells_per_stage}

    @property
    def num_values(self) -> tuple[int, ...]:
        """An operation an edge."""
        return (len(self.operations),) * self.edges

    def check(self, architecture: Architecture) -> None:
        """Raise ``ArchitectureError`` unless the architecture is a point of this space."""
        self.check_spec(architecture)
        if len(architecture.choices) != self.edges:
            raise ArchitectureError(f"{len(architecture.choices)} choices; a cell takes {self.edges}, one an edge.")
        for edge, (choice, row) in enumerate(zip(architecture.choices, self._usable(), strict=True)):
            if choice not in row:
                raise ArchitectureError(
                    f"Edge {edge} has operation {choice}; it takes one of {row}, indices into {self.operations}."
                )

    def _usable(self) -> list[list[int]]:
        """The operations that each edge may take."""
        return [row.nonzero().flatten().tolist() for row in self.allowed["cell"]]

    def key(self, architecture: Architecture) -> str:
        """The published string: the same in every order of ``operations``."""
        return self.text(architecture)

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw an operation an edge, uniformly over all that are allowed."""
        draws = [row[int(torch.randint(len(row), (1,), generator=generator))] for row in self._usable()]
        return self.architecture(draws)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures with one other operation."""
        self.check(architecture)
        choices = architecture.choices
        for edge, row in enumerate(self._usable()):
            for operation in row:
                if operation != choices[edge]:
                    yield self.architecture((*choices[:edge], operation, *choices[edge + 1 :]))

    def largest(self) -> Architecture:
        """The operation with most parameters on every edge."""
        counts = torch.tensor(
            [sum(p.numel() for p in CELL_OPERATIONS[name](16).parameters()) for name in self.operations]
        )
        return self.select({"cell": counts.expand(self.edges, -1)})

    def _check_images(self, image_shape: Sequence[int]) -> None:
        _, height, width = image_shape
        least = 2 ** (STAGES - 1)
        if min(height, width) < least:
            raise DataError(
                f"Images of {height}x{width} pixels are too small: {STAGES} stages need at least {least}x{least}. "
                "Use larger images."
            )

    def network(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        image_shape: Sequence[int],
        channels: int = 16,
        cells: int = 5,
        auxiliary: bool = False,
    ) -> NASBench201Network:
        """Build the ordinary network of an architecture; see ``SearchSpace.network``.

        Args:
            architecture: A point of this space.
            num_classes: Width of the classifier.
            image_shape: ``(channels, height, width)`` of an image.
            channels: Channels of the first stage.
            cells: Cells of each of the three stages.
            auxiliary: Must be False: the published skeleton has no auxiliary classifier.

        Raises:
            ArchitectureError: The architecture is of another space.
            ConfigError: An auxiliary classifier is asked for.
            DataError: The images are too small.
        """
        self.check(architecture)
        if auxiliary:
            raise ConfigError(
                "The networks of NAS-Bench-201 have no auxiliary classifier; train them with auxiliary_weight 0."
            )
        self._check_images(image_shape)
        names = [self.operations[choice] for choice in architecture.choices]
        return NASBench201Network(names, num_classes, image_shape[0], channels, cells)

    def supernet(
        self, *, num_classes: int, image_shape: Sequence[int], attention: Attention | None = None
    ) -> NASBench201Supernet:
        """Build the supernet; see ``DifferentiableSpace.supernet``."""
        self._check_images(image_shape)
        return NASBench201Supernet(
            self.operations,
            self.allowed["cell"],
            num_classes,
            image_shape[0],
            self.channels,
            self.cells_per_stage,
            attention,
        )

    def select(self, scores: Mapping[str, Tensor]) -> Architecture:
        """For every edge the allowed operation with the highest score, ``none`` like the others."""
        allowed = scores["cell"].detach().double().cpu().masked_fill(~self.allowed["cell"], -torch.inf)
        return self.architecture(allowed.argmax(dim=1).tolist())

    def chosen(self, architecture: Architecture) -> dict[str, list[tuple[int, int]]]:
        """The ``(edge, operation)`` pairs, as indices into the alphas; every edge is kept, those with ``none`` too."""
        self.check(architecture)
        return {"cell": list(enumerate(architecture.choices))}

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """The cell for drawing; an edge with ``none`` is left out."""
        self.check(architecture)
        names = [self.operations[choice] for choice in architecture.choices]
        edges = [(s, t, name) for (t, s), name in zip(_edges(), names, strict=True) if name != "none"]
        return [Graph("cell", ("c_{k-1}", "1", "2", "c_{k}"), tuple(edges))]

    def text(self, architecture: Architecture) -> str:
        """The published textual form, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
        self.check(architecture)
        named = [f"{self.operations[c]}~{s}" for c, (_, s) in zip(architecture.choices, _edges(), strict=True)]
        return "+".join(f"|{'|'.join(named[edges])}|" for edges in self.nodes)

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read the published textual form.

        Args:
            text: ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|``.

        Raises:
            ArchitectureError: The text is no cell of the space with all operations.
        """
        words = text.strip().replace("+", "").replace("||", "|").strip("|").split("|")
        names = [word.rpartition("~")[0] for word in words]
        space = cls()
        if len(names) == space.edges and all(name in space.operations for name in names):
            architecture = space.architecture([space.operations.index(name) for name in names])
            if space.text(architecture) == text.strip():
                return architecture
        raise ArchitectureError(
            f"Not a cell of NAS-Bench-201: received {text[:200]!r}. It is written "
            "'|op~0|+|op~0|op~1|+|op~0|op~1|op~2|' with operations from "
            f"{list(space.operations)}."
        )


def _edges() -> list[tuple[int, int]]:
    """``(node, source)`` of every edge, in the order of the alphas."""
    return [(node, source) for node in range(1, NODES) for source in range(node)]
