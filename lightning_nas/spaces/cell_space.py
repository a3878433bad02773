"""Base class of spaces whose cells have one operation per edge."""

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.checks import integer_at_least
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.files.classes import class_path
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import AllowedNames, DifferentiableSpace, Features
from lightning_nas.spaces.cells import CellGraph, CellNetwork, Place, Stack
from lightning_nas.spaces.features import edge_features, live_parameters
from lightning_nas.spaces.graph import Graph, edge_graph
from lightning_nas.spaces.operations import BUILT_IN, Operation, find_operations, operation_argument
from lightning_nas.spaces.per_edge import PerEdgeSupernet
from lightning_nas.spaces.rebuildable import PlainForm
from lightning_nas.spaces.supernet import Supernet

MOST_CELLS = 20
"""Largest number of cells among which ``CellSpace.least_cells`` looks."""


class CellSpace(DifferentiableSpace):
    """A space of cells whose edges take one operation each; the base class for cell spaces of your own.

    A subclass describes the graph of its cells, the operations, and how cells are stacked to a network. It then has
    everything that a search needs: sampling and neighbours, a supernet (``PerEdgeSupernet``), restrictions, artifacts,
    and the networks of architectures.

    Choices of an architecture, for every cell type: if nodes keep all their edges, the operation of every edge. If a
    node keeps ``inputs_kept`` edges, a pair of source and operation for every kept edge, node by node; sources are
    counted among the sources of the node.

    The constructor arguments of a subclass are JSON values, and each is kept as the attribute of the same name, except
    for ``operations`` and ``allowed``, which it hands to this constructor. Artifacts store the class path and the
    arguments. To read an artifact, the class must have been imported.

    Example:
        ```python
        class Chain(Stack):
            def layers(self, graph, *, channels_in, num_classes, channels, cells, affine):
                stem = nn.Sequential(nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels))
                body = [Place("cell", channels, 1, [nn.Identity()]) for _ in range(cells)]
                head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
                return Layers(stem, body, head)


        class TwoNodes(CellSpace):
            cell_types = ("cell",)

            def __init__(self, operations=("none", "skip_connect", "sep_conv_3x3"), channels=16, cells=4, allowed=None):
                graph = CellGraph(inputs=1, sources=((0,), (0, 1)), output="last")
                super().__init__(graph, Chain(), operations, channels=channels, cells=cells, allowed=allowed)
        ```

    Args:
        graph: States and edges of the cells; the same for all cell types.
        stack: How the cells are stacked.
        operations: The operations: names from ``known``, or objects of subclasses of ``Operation``.
        inputs_kept: Number of edges that each node of an architecture keeps; a node with fewer keeps all. None keeps
            all edges of all nodes. Where a number of edges is kept, an architecture never takes ``none``.
        channels: Channels of the first cell of the supernet.
        cells: Number of cells of the supernet.
        partial_channels: Only a ``partial_channels``-th of the channels enters the operations of the supernet; the
            others pass by.
        allowed: For cell types, the names of the operations that each edge may take; by default all of them.
        known: Operations that can be given by name; by default those of ``DARTSSpace``.

    Attributes:
        graph: States and edges of the cells.
        stack: How the cells are stacked.

    Raises:
        ConfigError: An operation is unknown or given twice, a number is not a positive integer, ``channels`` is not a
            multiple of ``partial_channels``, or ``allowed`` leaves a node with too few inputs.
    """

    supernet_arguments: ClassVar[tuple[str, ...]] = ("channels", "cells", "partial_channels")
    """Constructor arguments that decide about the supernet only, so that they are not part of the space's identity."""

    later_arguments: ClassVar[tuple[str, ...]] = ()
    """Constructor arguments that artifacts hold only where they are not the default, because older ones lack them."""

    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    """How public code of the space names the weights; see ``PerEdgeSupernet``."""

    @abstractmethod
    def __init__(
        self,
        graph: CellGraph,
        stack: Stack,
        operations: Sequence[str | Operation | PlainForm],
        *,
        inputs_kept: int | None = None,
        channels: int = 16,
        cells: int = 8,
        partial_channels: int = 1,
        allowed: AllowedNames | None = None,
        known: Sequence[Operation] = BUILT_IN,
    ) -> None:
        integer_at_least(1, channels=channels, cells=cells, partial_channels=partial_channels, inputs_kept=inputs_kept)
        if channels % partial_channels:
            raise ConfigError(f"channels ({channels}) must be a multiple of partial_channels ({partial_channels}).")
        self.graph = graph
        self.stack = stack
        self.known = tuple(known)
        self.candidates = find_operations(operations, {operation.name: operation for operation in known})
        self.operations = tuple(operation.name for operation in self.candidates)
        self._inputs_kept = inputs_kept
        self.channels = channels
        self.cells = cells
        self.partial_channels = partial_channels
        self.nodes = graph.nodes
        self.allowed = self._masks(allowed)
        self._check_allowed()
        self._usable = {name: [{*row.nonzero().flatten().tolist()} for row in m] for name, m in self.selectable.items()}

    def _check_allowed(self) -> None:
        """Check that every node can have its inputs."""
        for name, mask in self.selectable.items():
            usable = mask.any(dim=1)
            if self.inputs_kept is None:
                empty = (~usable).nonzero().flatten().tolist()
                if empty:
                    raise ConfigError(
                        f"allowed[{name!r}] leaves the edges {empty} without operations. Allow at least one operation "
                        "on every edge, such as 'none' where nothing shall pass."
                    )
                continue
            for i, node in enumerate(self.nodes):
                if usable[node].sum() < self._kept(i):
                    raise ConfigError(
                        f"allowed[{name!r}] leaves node {i} with {int(usable[node].sum())} inputs that have an "
                        f"operation other than 'none', but a node keeps {self._kept(i)}. Allow operations on more of "
                        "its edges."
                    )

    @property
    def inputs_kept(self) -> int | None:
        """See ``DifferentiableSpace.inputs_kept``."""
        return self._inputs_kept

    @cached_property
    def least_cells(self) -> int:
        """Smallest number of cells with which a network has every cell type; see ``SearchSpace.least_cells``.

        Raises:
            ConfigError: The stack has no place for a cell type, with up to ``MOST_CELLS`` cells.
        """
        for cells in range(1, MOST_CELLS + 1):
            with torch.random.fork_rng(devices=[]):  # the modules draw their weights
                layers = self.stack.layers(
                    self.graph, channels_in=3, num_classes=2, channels=self.channels, cells=cells, affine=False
                )
            if {part.cell_type for part in layers.body if isinstance(part, Place)} >= set(self.cell_types):
                return cells
        raise ConfigError(
            f"{type(self.stack).__name__} with up to {MOST_CELLS} cells lacks some of the cell types "
            f"{list(self.cell_types)}. Give the space only cell types that its stack has places for."
        )

    def _kept(self, node: int) -> int:
        """Number of edges that a node of an architecture keeps."""
        count = len(self.graph.sources[node])
        return count if self.inputs_kept is None else min(count, self.inputs_kept)

    def _constructor_arguments(self) -> dict[str, Any]:
        """Constructor arguments other than ``allowed``."""
        names = [name for name in inspect.signature(type(self)).parameters if name not in ("operations", "allowed")]
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise ConfigError(
                f"{type(self).__name__} has no attributes {missing}; it must keep each of its constructor arguments "
                "as the attribute of the same name. Set them in __init__."
            )
        return {name: getattr(self, name) for name in names}

    def _stored_arguments(self) -> dict[str, Any]:
        """Constructor arguments other than ``allowed`` that artifacts hold."""
        defaults = {name: each.default for name, each in inspect.signature(type(self)).parameters.items()}
        arguments = self._constructor_arguments()
        return {k: v for k, v in arguments.items() if k not in self.later_arguments or v != defaults[k]}

    def spec(self) -> SpaceSpec:
        """Return the class and the constructor arguments that decide which architectures there are."""
        return self._spec

    @cached_property
    def _spec(self) -> SpaceSpec:
        arguments = {k: v for k, v in self._stored_arguments().items() if k not in self.supernet_arguments}
        arguments["operations"] = operation_argument(self.candidates, self.known)
        return SpaceSpec(class_path(type(self)), tuple(arguments.items()))

    def arguments(self) -> dict[str, Any]:
        """See ``SupernetSpace.arguments``."""
        return {**super().arguments(), **self._stored_arguments()}

    def restrict(self, allowed: Mapping[str, Tensor]) -> "CellSpace":
        """See ``DifferentiableSpace.restrict``."""
        arguments = {**self._constructor_arguments(), "operations": self.candidates}
        restricted: CellSpace = type(self)(**arguments, allowed=self._narrowed(allowed))
        return restricted

    @property
    def num_values(self) -> tuple[int, ...]:
        """See ``SearchSpace.num_values``."""
        count = len(self.operations)
        if self.inputs_kept is None:
            return (count,) * self.edges * len(self.cell_types)
        cell = [(len(read), count) * self._kept(i) for i, read in enumerate(self.graph.sources)]
        return tuple(value for node in cell * len(self.cell_types) for value in node)

    def _pairs(self, architecture: Architecture) -> dict[str, list[list[tuple[int, int]]]]:
        """The ``(source, operation)`` pairs of an architecture by cell type and node; its choices must be enough."""
        choices = iter(architecture.choices)
        return {
            name: [
                [
                    (source if self.inputs_kept is None else next(choices), next(choices))
                    for source in range(self._kept(node))
                ]
                for node in range(len(self.nodes))
            ]
            for name in self.cell_types
        }

    def check(self, architecture: Architecture) -> None:
        """See ``SearchSpace.check``."""
        self.check_spec(architecture)
        if len(architecture.choices) != len(self.num_values):
            raise ArchitectureError(
                f"{len(architecture.choices)} choices; an architecture of this space has {len(self.num_values)}."
            )
        for name, cell in self._pairs(architecture).items():
            for i, node in enumerate(cell):
                sources = {source for source, _ in node}
                count = len(self.graph.sources[i])
                if len(sources) != len(node) or not 0 <= min(sources) <= max(sources) < count:
                    raise ArchitectureError(
                        f"Node {i} of the cell {name!r} reads {[s for s, _ in node]}; it takes {len(node)} different "
                        f"sources below {count}."
                    )
                for source, operation in node:
                    edge = self.nodes[i].start + source
                    usable = self._usable[name][edge]
                    if operation not in usable:
                        raise ArchitectureError(
                            f"Edge {edge} of the cell {name!r}, from source {source} to node {i}, has operation "
                            f"{operation}; it takes one of {sorted(usable)}, indices into {self.operations}."
                        )

    def key(self, architecture: Architecture) -> str:
        """Return a canonical identity: the pairs of sources and operations of every node, in the order of sources."""
        self.check(architecture)
        cells = self._pairs(architecture)
        return "|".join(
            ";".join(",".join(f"{s}:{o}" for s, o in sorted(node)) for node in cells[name]) for name in self.cell_types
        )

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the same architecture with the edges of every node in the order of their sources."""
        if self.inputs_kept is None:
            return architecture
        nodes = [node for cell in self._pairs(architecture).values() for node in cell]
        return Architecture(
            architecture.space, tuple(value for node in nodes for pair in sorted(node) for value in pair)
        )

    def text(self, architecture: Architecture) -> str:
        """Return a textual form, such as ``cell: sep_conv_3x3<-0 | skip_connect<-0 none<-1``; bars divide nodes."""
        self.check(architecture)
        parts = []
        for name, cell in self._pairs(architecture).items():
            nodes = [
                " ".join(f"{self.operations[o]}<-{self.graph.sources[i][s]}" for s, o in node)
                for i, node in enumerate(cell)
            ]
            parts.append(f"{name}: {' | '.join(nodes)}")
        return "; ".join(parts)

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw sources and operations uniformly from all architectures of the space.

        Args:
            generator: Source of randomness, on the CPU.
        """
        choices: list[int] = []
        for name in self.cell_types:
            usable = self.selectable[name]
            for i, edges in enumerate(self.nodes):
                sources = list(range(self._kept(i)))
                if self.inputs_kept is not None:
                    counts = usable[edges].sum(dim=1).double()
                    # a set of sources has as many architectures as the product of their numbers of operations
                    sets = torch.combinations(torch.arange(len(counts), device="cpu"), self._kept(i))
                    drawn = torch.multinomial(counts[sets].prod(dim=1), 1, generator=generator)[0]
                    sources = sets[drawn].tolist()
                for source in sources:
                    operations = usable[edges.start + source].nonzero().flatten()
                    operation = int(operations[torch.randint(len(operations), (1,), generator=generator)])
                    choices += [operation] if self.inputs_kept is None else [source, operation]
        return self.architecture(choices)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Yield all architectures with one other operation or one other source.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        choices, place, spec = architecture.choices, 0, self.spec()

        def changed(value: int) -> Architecture:
            return Architecture(spec, (*choices[:place], value, *choices[place + 1 :]))

        for name, cell in self._pairs(architecture).items():
            for edges, node in zip(self.nodes, cell, strict=True):
                usable = self._usable[name][edges]
                read = {source for source, _ in node}
                for source, operation in node:
                    if self.inputs_kept is not None:
                        yield from (
                            changed(other)
                            for other, operations in enumerate(usable)
                            if other not in read and operation in operations
                        )
                        place += 1
                    yield from (changed(other) for other in sorted(usable[source]) if other != operation)
                    place += 1

    def largest(self) -> Architecture:
        """Return the architecture that has the selectable operation with the most parameters on every kept edge."""
        counts = [operation.parameter_count for operation in self.candidates]
        return self.select(
            {name: torch.tensor(counts, device="cpu").expand(self.edges, -1) for name in self.cell_types}
        )

    def parameter_count(self, architecture: Architecture) -> int:
        """Return the parameters of one cell of each type with 16 channels; see ``features.live_parameters``."""
        return live_parameters(self.graphs(architecture), self.candidates)

    def select(self, scores: Mapping[str, Tensor]) -> Architecture:
        """Return the architecture with the highest-scored edges and operations.

        The score of an edge is that of its best operation; of equal scores, the first is taken.

        Args:
            scores: Scores ``(edges, operations)`` by cell type; higher is better.
        """
        choices: list[int] = []
        for name in self.cell_types:
            usable = scores[name].detach().double().cpu().masked_fill(~self.selectable[name], -torch.inf)
            best, operation = usable.max(dim=1)
            for i, edges in enumerate(self.nodes):
                top = best[edges].argsort(descending=True, stable=True)[: self._kept(i)].sort().values
                for source in top.tolist():
                    column = int(operation[edges.start + source])
                    choices += [column] if self.inputs_kept is None else [source, column]
        return self.architecture(choices)

    def chosen(self, architecture: Architecture) -> dict[str, list[tuple[int, int]]]:
        """See ``DifferentiableSpace.chosen``."""
        self.check(architecture)
        return {
            name: [(edges.start + s, o) for edges, node in zip(self.nodes, cell, strict=True) for s, o in node]
            for name, cell in self._pairs(architecture).items()
        }

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """Return the cells as graphs for drawing; connections with ``none`` are left out."""
        self.check(architecture)
        return [
            edge_graph(name, self.graph, nodes, self.candidates) for name, nodes in self._pairs(architecture).items()
        ]

    def features(self, architecture: Architecture) -> Features:
        """Return what the cells compute; see ``features.edge_features``."""
        return edge_features(self.graphs(architecture), self.candidates)

    def network(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        image_shape: Sequence[int],
        channels: int = 16,
        cells: int = 8,
        auxiliary: bool = False,
    ) -> nn.Module:
        """Build the ordinary network of an architecture; see ``SearchSpace.network``.

        Args:
            architecture: A point of this space.
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.
            channels: Channels of the first cell.
            cells: Number of cells.
            auxiliary: Must be False: these networks have no auxiliary classifier.

        Raises:
            ArchitectureError: The architecture belongs to another space.
            ConfigError: An auxiliary classifier is requested.
        """
        self.check(architecture)
        if auxiliary:
            raise ConfigError(
                f"The networks of {type(self).__name__} have no auxiliary classifier; train them with "
                "auxiliary_weight 0."
            )
        chosen = {
            name: [[(self.candidates[o], self.graph.sources[i][s]) for s, o in node] for i, node in enumerate(cell)]
            for name, cell in self._pairs(architecture).items()
        }
        return CellNetwork(self.graph, self.stack, chosen, num_classes, image_shape[0], channels, cells)

    def supernet(self, *, num_classes: int, image_shape: Sequence[int], attention: Attention | None = None) -> Supernet:
        """See ``DifferentiableSpace.supernet``; by default it is the ``per_edge_supernet``."""
        return self.per_edge_supernet(num_classes=num_classes, image_shape=image_shape, attention=attention)

    def per_edge_supernet(
        self, *, num_classes: int, image_shape: Sequence[int], attention: Attention | None = None
    ) -> PerEdgeSupernet:
        """Build the plain supernet, with one module per edge and operation.

        Args:
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.
            attention: Attention over channels inside the mixtures, or None.
        """
        layers = self.stack.layers(
            self.graph,
            channels_in=image_shape[0],
            num_classes=num_classes,
            channels=self.channels,
            cells=self.cells,
            affine=False,
        )
        return PerEdgeSupernet(
            layers, self.graph, self.candidates, self.allowed, self.partial_channels, attention, self.renames
        )
