"""All graphs and all cells of NAS-Bench-101, as arrays."""

from collections.abc import Iterator
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lightning_nas.spaces.nasbench101.cell import INNER, MAX_EDGES, PAIRS, VERTICES, unpack
from lightning_nas.spaces.nasbench101.network import CELL_OPERATIONS

Choices = NDArray[np.int8]
"""Choices of cells, ``(cells, 26)``."""

_OPERATIONS = len(CELL_OPERATIONS)
_VERTEX = _OPERATIONS << INNER + 1
"""Number of pairs of a vertex's inputs and operation."""


@cache
def numbered_graphs() -> NDArray[np.bool_]:
    """Say which published numbers of graphs can belong to a canonical cell.

    All vertices that have edges are on paths from the input to the output, those without edges stand before the output,
    and there are few enough edges. A vertex that does not read the one before it reads no smaller set of vertices,
    since otherwise the two would change places.

    Returns:
        Whether each number can, ``(2 ** 21,)``.
    """
    bits = np.arange(1 << PAIRS, dtype=np.int32)
    reads = [bits >> to * (to - 1) // 2 & (1 << to) - 1 for to in range(1, VERTICES)]  # by the vertices after the first
    read = np.zeros_like(bits)
    for mask in reads:
        read |= mask
    edges = sum((bits >> place & 1).astype(np.int8) for place in range(PAIRS))
    # edges only lead to higher vertices, so a vertex with incoming edges is reachable from the input in the end, and
    # one with outgoing edges leads to the output
    found: NDArray[np.bool_] = (reads[-1] != 0) & (edges <= MAX_EDGES)
    for vertex in range(1, INNER + 1):
        here = reads[vertex - 1]
        found &= (here != 0) == (read >> vertex & 1 != 0)
        if vertex < INNER:
            after = reads[vertex]
            found &= (after == 0) | (here != 0) & ((after >> vertex & 1 != 0) | (after >= here))
    found.flags.writeable = False
    return found


@cache
def all_choices() -> Choices:
    """List the choices of all 423,624 cells in canonical form, in some five seconds.

    Returns:
        A read-only array that is kept.
    """
    found = np.concatenate([cells_of(bits) for bits in np.flatnonzero(numbered_graphs()).tolist()])
    found.flags.writeable = False
    return found


def cells_of(bits: int) -> Choices:
    """List the choices of all cells with a graph that are in canonical form.

    A cell is, if no other order of its vertices gives smaller inputs and operations, vertex by vertex.

    Args:
        bits: Published number of the graph, one of ``numbered_graphs``.
    """
    inputs = unpack(bits)
    count = sum(mask != 0 for mask in inputs[:-1])
    inputs = [*inputs[:count], inputs[-1]]
    operations = np.array([*product(range(_OPERATIONS), repeat=count)], np.int64).reshape(_OPERATIONS**count, count)
    own, *others = [_numbers(inputs, order, operations) for order in _orders(inputs[:-1])]
    smallest = np.ones(len(own), bool)
    for other in others:
        smallest &= own <= other
    choices = np.zeros((int(smallest.sum()), PAIRS + INNER), np.int8)
    choices[:, :PAIRS] = [bits >> place & 1 for place in range(PAIRS)]
    choices[:, PAIRS : PAIRS + count] = operations[smallest]
    return choices


def _orders(inputs: list[int], order: tuple[int, ...] = (0,)) -> Iterator[tuple[int, ...]]:
    """Orders in which every vertex comes after those that it reads; that of the numbers is the first."""
    if len(order) == len(inputs) + 1:
        yield order
    placed = sum(1 << vertex for vertex in order)
    for vertex, mask in enumerate(inputs, 1):
        if not placed >> vertex & 1 and not mask & ~placed:
            yield from _orders(inputs, (*order, vertex))


def _numbers(inputs: list[int], order: tuple[int, ...], operations: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers by which cells with the same graph, whose vertices are put in an order, are compared."""

    def renumbered(mask: int) -> int:
        return sum(1 << new for new, old in enumerate(order) if mask >> old & 1)

    found = np.zeros(len(operations), np.int64)
    for vertex in order[1:]:
        found = found * _VERTEX + renumbered(inputs[vertex - 1]) * _OPERATIONS + operations[:, vertex - 1]
    return found * _VERTEX + renumbered(inputs[-1])
