"""Cells as graphs, for drawing and for features."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_nas.spaces.cells import CellGraph
from lightning_nas.spaces.operations import Operation


@dataclass(frozen=True)
class Graph:
    """A graph of a cell for drawing.

    Attributes:
        name: Cell type.
        nodes: Labels of the nodes.
        edges: Source, target and label of every edge; nodes are given by index.
        weighted: Labels of operations with trained weights, which are drawn in another colour.
        inputs: Number of input nodes; they come first, and the output is the last node.
    """

    name: str
    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]
    weighted: frozenset[str] = frozenset()
    inputs: int = 1

    @property
    def connected(self) -> bool:
        """Whether a path leads from an input to the output."""
        reached, new = set(), {len(self.nodes) - 1}
        while new:
            reached |= new
            new = {source for source, target, _ in self.edges if target in new} - reached
        return any(node in reached for node in range(self.inputs))


def edge_graph(
    name: str, cell: CellGraph, nodes: Sequence[Sequence[tuple[int, int]]], operations: Sequence[Operation]
) -> Graph:
    """Return a cell with operations on its edges; connections with ``none`` are left out.

    Args:
        name: Cell type.
        cell: The states and edges of the space's cells.
        nodes: For every inner node, the kept edges: pairs of an index into its sources and one into ``operations``.
        operations: The operations of the space.
    """
    inputs, count = cell.inputs, len(nodes)
    joined = cell.output == "concatenate"
    labels = [*(f"c_{{k-{inputs - i}}}" for i in range(inputs)), *map(str, range(count))]
    labels = [*labels, "c_{k}"] if joined else [*labels[:-1], "c_{k}"]
    edges = [
        (cell.sources[i][source], inputs + i, operations[place].name)
        for i, node in enumerate(nodes)
        for source, place in node
        if not operations[place].is_none
    ]
    edges += [(inputs + i, inputs + count, "") for i in range(count)] if joined else []
    weighted = frozenset(operation.name for operation in operations if operation.has_weights)
    return Graph(name, tuple(labels), tuple(edges), weighted, inputs)
