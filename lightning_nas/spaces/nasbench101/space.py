"""The NAS-Bench-101 space (Ying et al., 2019): cells with operations on the vertices of a small graph."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import md5
from operator import eq
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.base import Graph, SearchSpace
from lightning_nas.spaces.nasbench101.network import CELL_OPERATIONS, STACKS, NASBench101Network

VERTICES = 7
"""Most vertices of a cell, its input and output among them."""

MAX_EDGES = 9
"""Most edges of a cell."""

_PAIRS = VERTICES * (VERTICES - 1) // 2
_INNER = VERTICES - 2
_NAMES = tuple(CELL_OPERATIONS)
_SPEC = SpaceSpec("lightning_nas.spaces.NASBench101Space")
_DRAWS = 1024
"""Raw numbers that are drawn at a time; one in 1,203 is a canonical cell."""

_VERTEX = re.compile(r"([a-z0-9-]+)\(([0-9](?:,[0-9])*)\)")


class _Cell(NamedTuple):
    """A cell in which every vertex is on a path from the input to the output.

    Attributes:
        inputs: For vertex 1, 2, ..., a bit for every vertex that it reads; the last is the output.
        operations: Of the inner vertices.
    """

    inputs: tuple[int, ...]
    operations: tuple[int, ...]

    @property
    def edges(self) -> int:
        return sum(mask.bit_count() for mask in self.inputs)


def _bits(mask: int) -> list[int]:
    return [vertex for vertex in range(VERTICES) if mask >> vertex & 1]


def _prune(inputs: Sequence[int], operations: Sequence[int]) -> _Cell | None:
    """Leave out what is on no path from the input to the output; None where there is no path."""
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
        return _Cell(tuple(inputs), tuple(operations))
    kept = _bits(live)
    masks = [sum(1 << i for i, vertex in enumerate(kept) if inputs[to - 1] >> vertex & 1) for to in kept[1:]]
    return _Cell(tuple(masks), tuple(operations[vertex - 1] for vertex in kept[1:-1]))


def _unpack(bits: int) -> list[int]:
    """The inputs of the vertices behind the first, from the published number of a graph."""
    return [bits >> to * (to - 1) // 2 & (1 << to) - 1 for to in range(1, VERTICES)]


def _connected(bits: Tensor) -> Tensor:
    """Which published numbers of graphs have a path from the input to the output, no other edges, and not too many."""
    edges = bits[:, None] >> torch.arange(_PAIRS) & 1
    source, target = torch.tril_indices(VERTICES, VERTICES, -1).flip(0)
    vertices = torch.arange(VERTICES)
    entered, left = ((edges @ (ends[:, None] == vertices).long()) > 0 for ends in (target, source))
    # as edges only go up, a vertex that is entered is behind the input, and one that is left is before the output
    found: Tensor = entered[:, -1] & (entered == left)[:, 1:-1].all(dim=1) & (edges.sum(dim=1) <= MAX_EDGES)
    return found


def _choices(cell: _Cell) -> tuple[int, ...]:
    """A cell as seven vertices: those that it lacks stand before the output, read nothing and are never read."""
    absent = _INNER - len(cell.operations)
    inputs = (*cell.inputs[:-1], *[0] * absent, cell.inputs[-1])
    bits = [mask >> source & 1 for to, mask in enumerate(inputs, 1) for source in range(to)]
    return (*bits, *cell.operations, *[0] * absent)


def _numbered(cell: _Cell) -> Iterator[tuple[int, int]]:
    """Inputs and operation of one vertex after the other, in the least of all ways to number them; the output is last.

    Ways are compared by the first vertex in which they differ; the output's operation is 0.
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


def _canonical(cell: _Cell) -> _Cell:
    inputs, operations = zip(*_numbered(cell), strict=True)
    return _Cell(inputs, operations[:-1])


def _is_canonical(cell: _Cell) -> bool:
    """Whether the vertices are numbered in the least way; most cells are known not to be at their first vertices."""
    return all(map(eq, _numbered(cell), zip(cell.inputs, (*cell.operations, 0), strict=True)))


def _renumbered(mask: int, order: Sequence[int]) -> int:
    return sum(1 << new for new, old in enumerate(order) if mask >> old & 1)


@lru_cache(maxsize=1 << 12)
def _vertex_hash(outgoing: int, incoming: int, label: int) -> str:
    return _digest(str((outgoing, incoming, label)))


@lru_cache(maxsize=1 << 15)
def _hash(cell: _Cell) -> str:
    """The published hash: equal for isomorphic cells.

    Every vertex starts from the numbers of edges that leave and enter it and its label, -1 for the input and -2 for the
    output. As often as there are vertices, it takes in what its neighbours have.
    """
    sources = [[], *map(_bits, cell.inputs)]
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


class NASBench101Space(SearchSpace):
    """The NAS-Bench-101 space: 423,624 cells with published results for each.

    A cell is a directed graph of at most seven vertices, its input and output among them, and at most nine edges. Inner
    vertices have an operation. A network is three stacks of equal cells; each stack but the first starts with max
    pooling, and has twice the channels of the one before.

    Choices of an architecture: 21 bits, of which number ``x + y(y - 1)/2`` says whether there is an edge from vertex x
    to vertex y, and the operations of the vertices 1 to 5, indices into
    ``lightning_nas.spaces.nasbench101.network.CELL_OPERATIONS``. Vertices on no path from the input to the output do
    not count, nor do their edges: as in the published code, there may be more than nine edges before they are left out.

    References:
        1. Ying, Klein, Real, Christiansen, Murphy, Hutter: NAS-Bench-101: Towards Reproducible Neural Architecture
           Search, ICML 2019, https://arxiv.org/abs/1902.09635
    """

    def spec(self) -> SpaceSpec:
        """The class alone: there is one such space."""
        return _SPEC

    @property
    def num_values(self) -> tuple[int, ...]:
        """A bit for every edge that may be there, and an operation an inner vertex."""
        return (2,) * _PAIRS + (len(_NAMES),) * _INNER

    def check(self, architecture: Architecture) -> None:
        """Raise ``ArchitectureError`` unless the architecture is a point of this space."""
        self._cell(architecture)

    def _cell(self, architecture: Architecture) -> _Cell:
        """The checked cell without the vertices that do not count."""
        self.check_spec(architecture)
        choices = architecture.choices
        if len(choices) != _PAIRS + _INNER:
            raise ArchitectureError(
                f"{len(choices)} choices; a cell takes {_PAIRS} edge bits and {_INNER} operations, "
                f"{_PAIRS + _INNER} in all. NASBench101Space.from_matrix makes them from a matrix of any size."
            )
        bits, operations = choices[:_PAIRS], choices[_PAIRS:]
        if not {*bits} <= {0, 1} or not {*operations} <= {*range(len(_NAMES))}:
            raise ArchitectureError(
                f"Edge bits {bits} and operations {operations}; bits are 0 or 1, operations indices into {_NAMES}."
            )
        cell = _prune(_unpack(sum(bit << i for i, bit in enumerate(bits))), operations)
        if cell is None:
            raise ArchitectureError(f"Edge bits {bits} have no path from the input to the output. Add edges.")
        if cell.edges > MAX_EDGES:
            raise ArchitectureError(
                f"The cell has {cell.edges} edges on paths from the input to the output; at most {MAX_EDGES} may be "
                "there. Take some away."
            )
        return cell

    def _made(self, cell: _Cell) -> Architecture:
        return self.architecture(_choices(cell))

    @classmethod
    def from_matrix(cls, matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> Architecture:
        """Make an architecture from the published form of a cell.

        Args:
            matrix: Row x and column y hold 1 where there is an edge from vertex x to vertex y, otherwise 0; two to
                seven vertices, the first is the input, the last the output, and edges go from lower to higher numbers.
            operations: Names of the operations of the inner vertices.

        Raises:
            ArchitectureError: This is no cell of the space.
        """
        rows, size = [list(row) for row in matrix], len(matrix)
        unknown = [name for name in operations if name not in _NAMES]
        if not 2 <= size <= VERTICES or len(operations) != size - 2 or unknown:
            raise ArchitectureError(
                f"A matrix of {size} rows and operations {list(operations)!s:.300}; expected 2 to {VERTICES} rows and "
                f"two operations fewer, of {list(_NAMES)}."
            )
        if any(
            len(row) != size or any(bit not in (0, 1) or (bit and y <= x) for y, bit in enumerate(row))
            for x, row in enumerate(rows)
        ):
            raise ArchitectureError(
                f"The matrix is {rows!s:.300}; expected {size} columns of 0 and 1, and 1 above the diagonal alone. "
                "Number the vertices so that edges go from lower to higher numbers."
            )
        inputs = tuple(sum(int(rows[x][y]) << x for x in range(y)) for y in range(1, size))
        return cls()._made(_Cell(inputs, tuple(_NAMES.index(name) for name in operations)))

    def canonical(self, architecture: Architecture) -> Architecture:
        """The form that all architectures with the same key share, numbered anew and without what does not count."""
        return self._made(_canonical(self._cell(architecture)))

    def key(self, architecture: Architecture) -> str:
        """The published hash of the cell, in hexadecimal digits: the same for all isomorphic cells."""
        return _hash(self._cell(architecture))

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw uniformly from the 423,624 networks, not from the matrices that stand for them.

        All 21 bits and 5 operations are drawn until they are the canonical form of a cell, which every network has one
        of.
        """
        while True:
            draws = torch.randint(len(_NAMES) ** _INNER << _PAIRS, (_DRAWS,), generator=generator)
            for draw in draws[_connected(draws)].tolist():
                operations = [draw // (len(_NAMES) ** i << _PAIRS) % len(_NAMES) for i in range(_INNER)]
                inputs = _unpack(draw)
                cell = _prune(inputs, operations)
                choices = _choices(_Cell(tuple(inputs), tuple(operations)))
                if cell is not None and choices == _choices(cell) and _is_canonical(cell):
                    return self.architecture(choices)

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All other networks that one edit leads to, each once.

        An edit flips one of the 21 bits or changes one operation. Vertices that do not count keep their edges, so that
        one more edge may bring them back. As vertices without edges could not come back in this way, a cell with fewer
        than seven vertices that count has one more kind of edit: it gets a vertex between two of its own, of any
        operation, with one edge in and one out.
        """
        seen = {self.key(architecture)}
        for choices in self._edits(architecture):
            near = Architecture(_SPEC, choices)
            try:
                key = self.key(near)
            except ArchitectureError:
                continue
            if key not in seen:
                seen.add(key)
                yield near

    def _edits(self, architecture: Architecture) -> Iterator[tuple[int, ...]]:
        """The choices of one edit, valid or not."""
        choices = architecture.choices
        for i, choice in enumerate(choices):
            for other in range(2 if i < _PAIRS else len(_NAMES)):
                if other != choice:
                    yield (*choices[:i], other, *choices[i + 1 :])
        cell = self._cell(architecture)
        if len(cell.operations) == _INNER:
            return
        for source in range(len(cell.inputs)):
            # the new vertex stands right behind its source; numbers above move up by one
            below = (1 << source + 1) - 1
            moved = [mask & below | (mask & ~below) << 1 for mask in cell.inputs]
            for to in range(source, len(moved)):
                inputs = [*moved[:source], 1 << source, *moved[source:]]
                inputs[to + 1] |= 1 << source + 1
                for operation in range(len(_NAMES)):
                    operations = (*cell.operations[:source], operation, *cell.operations[source:])
                    yield _choices(_Cell(tuple(inputs), operations))

    def largest(self) -> Architecture:
        """A cell with most parameters: five 3x3 convolutions of full width in a chain, four of them with projections.

        Only one vertex may enter the output, or the output's channels would be shared; the other inner vertices take an
        edge each to be read, which leaves four of the nine to read the input. All such cells have equally many.
        """
        return self.parse(
            "conv3x3-bn-relu(0) conv3x3-bn-relu(0,1) conv3x3-bn-relu(0,2) conv3x3-bn-relu(0,3) conv3x3-bn-relu(4) "
            "output(5)"
        )

    def network(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        image_shape: Sequence[int],
        channels: int = 128,
        cells: int = 3,
        auxiliary: bool = False,
    ) -> NASBench101Network:
        """Build the ordinary network of an architecture; see ``SearchSpace.network``.

        Where the output's channels do not divide among the vertices that it concatenates, the first of them take one
        more, so that the vertices' order may change the number of parameters a little, as in the published code.

        Args:
            architecture: A point of this space.
            num_classes: Width of the classifier.
            image_shape: ``(channels, height, width)`` of an image.
            channels: Channels of the first stack.
            cells: Cells of each of the three stacks.
            auxiliary: Must be False: the published skeleton has no auxiliary classifier.

        Raises:
            ArchitectureError: The architecture is of another space.
            ConfigError: An auxiliary classifier is asked for, or there are fewer channels than the output's parts.
            DataError: The images are too small.
        """
        cell = self._cell(architecture)
        if auxiliary:
            raise ConfigError(
                "The networks of NAS-Bench-101 have no auxiliary classifier; train them with auxiliary_weight 0."
            )
        parts = (cell.inputs[-1] & ~1).bit_count()
        if channels < max(parts, 1):
            raise ConfigError(
                f"channels is {channels}; this cell's output concatenates {parts} vertices, which need at least one "
                "channel each. Use more channels."
            )
        _, height, width = image_shape
        least = 2 ** (STACKS - 1)
        if min(height, width) < least:
            raise DataError(
                f"Images of {height}x{width} pixels are too small: {STACKS} stacks need at least {least}x{least}. "
                "Use larger images."
            )
        inputs, names = [_bits(mask) for mask in cell.inputs], [_NAMES[i] for i in cell.operations]
        return NASBench101Network(inputs, names, num_classes, image_shape[0], channels, cells)

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """The cell for drawing, without what does not count; operations are on its nodes, edges have no labels."""
        cell = self._cell(architecture)
        edges = [(source, to, "") for to, mask in enumerate(cell.inputs, 1) for source in _bits(mask)]
        return [Graph("cell", ("input", *(_NAMES[i] for i in cell.operations), "output"), tuple(edges))]

    def text(self, architecture: Architecture) -> str:
        """The canonical form in words, such as ``conv3x3-bn-relu(0) maxpool3x3(0,1) output(0,2)``.

        Vertices from number 1 on stand in their order, each with those that it reads; 0 is the input.
        """
        cell = _canonical(self._cell(architecture))
        names = (*(_NAMES[i] for i in cell.operations), "output")
        return " ".join(
            f"{name}({','.join(map(str, _bits(mask)))})" for name, mask in zip(names, cell.inputs, strict=True)
        )

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read what ``text`` wrote, or a cell of the same form whose vertices are in another order.

        Args:
            text: ``conv3x3-bn-relu(0) maxpool3x3(0,1) output(0,2)``.

        Raises:
            ArchitectureError: The text is no cell of this space.
        """
        words = [_VERTEX.fullmatch(word) for word in text.split()]
        found = [(word[1], [int(source) for source in word[2].split(",")]) for word in words if word]
        ordered = all(source < to for to, (_, sources) in enumerate(found, 1) for source in sources)
        names = [name for name, _ in found]
        if len(found) != len(words) or not ordered or names[-1:] != ["output"] or not {*names[:-1]} <= {*_NAMES}:
            raise ArchitectureError(
                f"Not a cell of NAS-Bench-101: received {text[:200]!r}. It is written like 'conv3x3-bn-relu(0) "
                f"maxpool3x3(0,1) output(0,2)': vertices from number 1 on with those before them that they read, and "
                f"operations from {list(_NAMES)}."
            )
        size = len(found) + 1
        matrix = [[int(y > 0 and x in found[y - 1][1]) for y in range(size)] for x in range(size)]
        return cls.from_matrix(matrix, names[:-1])
