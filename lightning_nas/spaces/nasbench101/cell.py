"""Cells of NAS-Bench-101 as plain data: pruning, canonical numbering, and the published hash."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import md5
from operator import eq
from typing import NamedTuple

VERTICES = 7
"""Largest number of vertices of a cell, including its input and output."""

MAX_EDGES = 9
"""Largest number of edges of a cell."""

PAIRS = VERTICES * (VERTICES - 1) // 2
"""Largest number of pairs of vertices."""

INNER = VERTICES - 2
"""Largest number of vertices with an operation."""


class Cell(NamedTuple):
    """A cell in which every vertex is on a path from the input to the output.

    Attributes:
        inputs: For vertex 1, 2, ..., a mask with a bit for every vertex that it reads; the last vertex is the output.
        operations: Operations of the inner vertices.
    """

    inputs: tuple[int, ...]
    operations: tuple[int, ...]

    @property
    def edges(self) -> int:
        """Number of edges."""
        return sum(mask.bit_count() for mask in self.inputs)


def bits_of(mask: int) -> list[int]:
    """Vertices of a mask, in ascending order."""
    return [vertex for vertex in range(VERTICES) if mask >> vertex & 1]


def prune(inputs: Sequence[int], operations: Sequence[int]) -> Cell | None:
    """Remove vertices that lie on no path from the input to the output; None if there is no path."""
    last = len(inputs)
    reached, used = 1, 1 << last
    for vertex, mask in enumerate(inputs, 1):
        if mask & reached:
            reached |= 1 << vertex
    if not reached >> last:
        return None
    for vertex in range(last, 0, -1):
        if used >> vertex & 1:
            used |= inputs[vertex - 1]
    live = reached & used
    if live.bit_count() == last + 1:
        return Cell(tuple(inputs), tuple(operations))
    kept = bits_of(live)
    masks = [sum(1 << i for i, vertex in enumerate(kept) if inputs[to - 1] >> vertex & 1) for to in kept[1:]]
    return Cell(tuple(masks), tuple(operations[vertex - 1] for vertex in kept[1:-1]))


def unpack(bits: int) -> list[int]:
    """Inputs of the vertices after the first, from the published number of a graph."""
    return [bits >> to * (to - 1) // 2 & (1 << to) - 1 for to in range(1, VERTICES)]


def choices_of(cell: Cell) -> tuple[int, ...]:
    """Choices of a cell with seven vertices: missing ones stand before the output, read nothing and are never read."""
    absent = INNER - len(cell.operations)
    inputs = (*cell.inputs[:-1], *[0] * absent, cell.inputs[-1])
    bits = [mask >> source & 1 for to, mask in enumerate(inputs, 1) for source in range(to)]
    return (*bits, *cell.operations, *[0] * absent)


def _numbered(cell: Cell) -> Iterator[tuple[int, int]]:
    """Yield inputs and operation of every vertex in the smallest of all possible numberings; the output comes last.

    Numberings are compared by the first vertex in which they differ. The operation of the output counts as 0.
    """
    orders: list[tuple[int, ...]] = [(0,)]
    vertices = list(enumerate(zip(cell.inputs, cell.operations, strict=False), 1))
    for _ in vertices:
        options = []
        for order in orders:
            placed = sum(1 << vertex for vertex in order)
            for vertex, (mask, operation) in vertices:
                if not placed >> vertex & 1 and not mask & ~placed:
                    options.append(((_renumbered(mask, order), operation), (*order, vertex)))
        least = min(option[0] for option in options)
        orders = [order for found, order in options if found == least]
        yield least
    yield min(_renumbered(cell.inputs[-1], order) for order in orders), 0


def canonical(cell: Cell) -> Cell:
    """The same cell with its vertices in canonical order, which is equal for isomorphic cells."""
    inputs, operations = zip(*_numbered(cell), strict=True)
    return Cell(inputs, operations[:-1])


def is_canonical(cell: Cell) -> bool:
    """Whether the vertices are numbered canonically, which the first vertices already rule out for most cells."""
    return all(map(eq, _numbered(cell), zip(cell.inputs, (*cell.operations, 0), strict=True)))


def _renumbered(mask: int, order: Sequence[int]) -> int:
    return sum(1 << new for new, old in enumerate(order) if mask >> old & 1)


@lru_cache(maxsize=1 << 12)
def _vertex_hash(outgoing: int, incoming: int, label: int) -> str:
    return _digest(str((outgoing, incoming, label)))


@lru_cache(maxsize=1 << 15)
def cell_hash(cell: Cell) -> str:
    """The published hash, which is equal for isomorphic cells.

    The hash of a vertex starts from the numbers of its outgoing and incoming edges and its label, which is -1 for the
    input and -2 for the output. It then absorbs the hashes of its neighbours, as many times as there are vertices.
    """
    sources = [[], *map(bits_of, cell.inputs)]
    vertices = range(len(sources))
    targets = [[to for to in vertices if vertex in sources[to]] for vertex in vertices]
    labels = (-1, *cell.operations, -2)
    hashes = [_vertex_hash(len(targets[v]), len(sources[v]), labels[v]) for v in vertices]
    for _ in vertices:
        hashes = [_digest(f"{_joined(hashes, sources[v])}|{_joined(hashes, targets[v])}|{hashes[v]}") for v in vertices]
    return _digest(str(sorted(hashes)))


def _joined(hashes: Sequence[str], vertices: Sequence[int]) -> str:
    return "".join(sorted([hashes[vertex] for vertex in vertices]))


def _digest(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()
