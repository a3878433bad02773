"""The plain supernet of any cell space: one module per edge and operation."""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.cells import CellGraph, Layers, Place, first_states
from lightning_nas.spaces.operations import Operation
from lightning_nas.spaces.supernet import Entry, Mixture, Supernet, layer_key


class PerEdgeCell(nn.Module):
    """A cell in which every edge is the weighted sum of its operations.

    Args:
        graph: States and edges.
        place: Where the cell stands.
        operations: The operations, in the order of the mixture's columns.
        allowed: Operations that every edge has a module for, bool ``(edges, operations)``.
        partial_channels: Only a ``partial_channels``-th of the channels enters the operations; the others pass by.
        attention: Attention over channels, or None.

    Attributes:
        skip_dropout: Share of the values passed by skip connections of stride 1 that training sets to zero.
    """

    skip_dropout: float = 0.0

    def __init__(
        self,
        graph: CellGraph,
        place: Place,
        operations: Sequence[Operation],
        allowed: Tensor,
        partial_channels: int = 1,
        attention: Attention | None = None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.cell_type = place.cell_type
        self.partial_channels = partial_channels
        self.inner = place.channels // partial_channels
        self.pairs = [(node, source) for node, read in enumerate(graph.sources) for source in read]
        self.strides = [place.stride if source < graph.inputs else 1 for _, source in self.pairs]
        self.skips = [column for column, operation in enumerate(operations) if operation.is_skip]
        self.inputs = nn.ModuleList(place.inputs)
        # named by column, so that supernets of a space and of its restrictions share names
        self.edges = nn.ModuleList(
            nn.ModuleDict(
                {
                    str(column): operation.search_module(self.inner, stride)
                    for column, (operation, on) in enumerate(zip(operations, row, strict=True))
                    if on
                }
            )
            for row, stride in zip(allowed.tolist(), self.strides, strict=True)
        )
        self.read = sorted({source for _, source in self.pairs})
        gates = [attention.channel_gate(self.inner) for _ in self.read] if attention is not None else []
        self.gates = nn.ModuleList(gates)

    def forward(self, states: Sequence[Tensor], mixture: Mixture) -> Tensor:
        """Map the outputs of the layers before to the output of the cell.

        Args:
            states: The outputs, as many as the cell has inputs.
            mixture: Weights of the cell's type.
        """
        states = [module(x) for module, x in zip(self.inputs.children(), states, strict=True)]
        entering = {source: self._entering(source, x) for source, x in enumerate(states) if source in self.read}
        for node, edges in enumerate(self.graph.nodes):
            mixed = [self._mixed(e, entering[self.pairs[e][1]], mixture) for e in range(edges.start, edges.stop)]
            total = sum(mixed[1:], mixed[0])
            if self.partial_channels > 1:
                passed = [self._passing(e, states[self.pairs[e][1]], mixture) for e in range(edges.start, edges.stop)]
                total = self._shuffled(total, sum(passed[1:], passed[0]))
            states.append(total)
            source = self.graph.inputs + node
            if source in self.read:
                entering[source] = self._entering(source, total)
        return self.graph.join(states[self.graph.inputs :])

    def _entering(self, source: int, state: Tensor) -> Tensor:
        """The channels of a state that enter operations, after its gate."""
        x = state[:, : self.inner]
        return x * self.gates[self.read.index(source)](x) if len(self.gates) else x

    def _mixed(self, edge: int, x: Tensor, mixture: Mixture) -> Tensor:
        """Weighted sum of the operations of an edge."""
        active = None if mixture.active is None else mixture.active[edge].tolist()
        outputs = {}
        for name, module in self.edges[edge].named_children():
            if active is None or active[int(name)]:
                outputs[int(name)] = self._output(edge, int(name), module, x)
        factors = mixture.operations[edge]
        terms = [factors[column] * y for column, y in outputs.items()]
        if not terms:
            size = (-(-length // self.strides[edge]) for length in x.shape[2:])
            terms = [x.new_zeros(*x.shape[:2], *size)]
        total = sum(terms[1:], terms[0])
        return total if mixture.constants is None else total + mixture.constants[edge].to(total.dtype)

    def _output(self, edge: int, column: int, module: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = module(x)
        if self.skip_dropout and self.training and column in self.skips and self.strides[edge] == 1:
            y = F.dropout(y, self.skip_dropout)
        return y

    def _passing(self, edge: int, state: Tensor, mixture: Mixture) -> Tensor:
        """The weighted channels of a state that pass an edge without entering its operations."""
        rest = state[:, self.inner :]
        rest = F.max_pool2d(rest, 2, ceil_mode=True) if self.strides[edge] == 2 else rest
        return mixture.edges[edge] * rest

    def _shuffled(self, mixed: Tensor, passing: Tensor) -> Tensor:
        """Interleave mixed and passing channels, so that other channels enter the operations at the next node."""
        groups: Tensor = torch.cat([mixed, passing], dim=1).unflatten(1, (self.partial_channels, -1))
        return groups.transpose(1, 2).flatten(1, 2)


class PerEdgeSupernet(Supernet):
    """The plain supernet of a cell space, with one module per edge and operation.

    Every ``CellSpace`` has it without further code. It computes any operation, slower than the fused supernets of
    ``DARTSSpace`` and ``NASBench201Space``, which equal it: outputs and all gradients agree up to rounding.

    Args:
        layers: Stem, places of the cells, modules between them, and head.
        graph: States and edges of the cells.
        operations: The operations, in the order of the mixture's columns.
        allowed: Operations that every edge has modules for, bool ``(edges, operations)``, by cell type.
        partial_channels: Only a ``partial_channels``-th of the channels enters the operations; the others pass by
            (PC-DARTS, Xu et al., ICLR 2020). 1 is a full connection.
        attention: Attention over channels, or None.
        renames: Regular expressions and their replacements, which turn the names of tensors here into those of the
            public code of the space, one after the other.
    """

    adds_constants = True

    def __init__(
        self,
        layers: Layers,
        graph: CellGraph,
        operations: Sequence[Operation],
        allowed: Mapping[str, Tensor],
        partial_channels: int = 1,
        attention: Attention | None = None,
        renames: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__()
        self.inputs = graph.inputs
        self.renames = tuple(renames)
        self.stem, self.stem_2 = layers.stem, layers.stem_2
        self.cells = nn.ModuleList(
            PerEdgeCell(graph, layer, operations, allowed[layer.cell_type], partial_channels, attention)
            if isinstance(layer, Place)
            else layer
            for layer in layers.body
        )
        self.head = layers.head
        self._own = {self._public(name): name for name in self.state_dict()}

    def forward(self, x: Tensor, mixtures: Mapping[str, Mixture]) -> Tensor:
        """Map images to logits; see ``Supernet.forward``."""
        placed = {name: mixture.to(x.device) for name, mixture in mixtures.items()}
        states = first_states(x, self.inputs, self.stem, self.stem_2)
        for i, layer in enumerate(self.cells):
            if isinstance(layer, PerEdgeCell):
                y = self.run(layer, states, placed.get(layer_key(i)) or placed[layer.cell_type])
            else:
                y = layer(states[-1])
            states = [*states[1:], y]
        logits: Tensor = self.head(states[-1])
        return logits

    def layer_types(self) -> list[str | None]:
        """See ``Supernet.layer_types``."""
        return [layer.cell_type if isinstance(layer, PerEdgeCell) else None for layer in self.cells]

    def per_edge(self) -> Iterator[Entry]:
        """Yield the tensors in the naming of the public code; see ``Supernet.per_edge``."""
        for name, value in self.state_dict().items():
            if ".gates." not in name:
                shape = tuple(value.shape)
                yield self._public(name), name, shape, (), shape

    def _public(self, name: str) -> str:
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def owner(self, public: str) -> tuple[str, int, int] | None:
        """See ``Supernet.owner``."""
        found = re.match(r"cells\.(\d+)\.edges\.(\d+)\.(\d+)\.", self._own.get(public, public))
        if found is None:
            return None
        layer, edge, column = map(int, found.groups())
        cell = self.cells[layer]
        return (cell.cell_type, edge, column) if isinstance(cell, PerEdgeCell) else None
