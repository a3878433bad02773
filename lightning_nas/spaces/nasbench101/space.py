"""The NAS-Bench-101 space: cells with operations on the vertices of a small graph."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.base import Features, SearchSpace
from lightning_nas.spaces.features import vertex_features
from lightning_nas.spaces.graph import Graph
from lightning_nas.spaces.nasbench101.cell import (
    INNER,
    MAX_EDGES,
    PAIRS,
    VERTICES,
    Cell,
    bits_of,
    canonical,
    cell_hash,
    choices_of,
    is_canonical,
    prune,
    unpack,
)
from lightning_nas.spaces.nasbench101.listing import all_choices, numbered_graphs
from lightning_nas.spaces.nasbench101.network import CELL_OPERATIONS, STACKS, NASBench101Network

_NAMES = tuple(CELL_OPERATIONS)
_SPEC = SpaceSpec("lightning_nas.spaces.NASBench101Space")
_DRAWS = 1024
"""Number of random integers that are drawn at a time; one in 1,203 encodes a canonical cell."""

_VERTEX = re.compile(r"([a-z0-9-]+)\(([0-9](?:,[0-9])*)\)")


class NASBench101Space(SearchSpace):
    """The NAS-Bench-101 space: 423,624 cells with published results for each.

    A cell is a directed acyclic graph with at most seven vertices, including its input and output, and at most nine
    edges. Every inner vertex has an operation. A network has three stacks of equal cells; every stack but the first
    starts with max pooling and has twice the channels of the one before.

    Choices of an architecture: 21 bits, of which number ``x + y(y - 1)/2`` says whether there is an edge from vertex x
    to vertex y, and the operations of the vertices 1 to 5, as indices into ``nasbench101.network.CELL_OPERATIONS``.
    Vertices on no path from the input to the output do not count, nor do their edges. As in the published code, the
    limit of nine edges holds only after they are removed.

    References:
        1. Ying, Klein, Real, Christiansen, Murphy, Hutter: NAS-Bench-101: Towards Reproducible Neural Architecture
           Search, ICML 2019, https://arxiv.org/abs/1902.09635

    Example:
        ```python
        space = NASBench101Space()
        architecture = space.parse("conv3x3-bn-relu(0) maxpool3x3(0,1) output(0,2)")
        ```
    """

    def spec(self) -> SpaceSpec:
        """Return the class, which is the whole identity: there is only one such space."""
        return _SPEC

    @property
    def num_values(self) -> tuple[int, ...]:
        """Two for every possible edge, and the number of operations for every inner vertex."""
        return (2,) * PAIRS + (len(_NAMES),) * INNER

    @property
    def tokens(self) -> tuple[tuple[int, ...], ...]:
        """The places of the incoming edges of every vertex but the input, and of the operation of every inner one.

        Operations are tokens of their own: together with the edges of their vertex, they rank a little less well.
        """
        edges = (tuple(range(to * (to - 1) // 2, to * (to + 1) // 2)) for to in range(1, VERTICES))
        return (*edges, *((PAIRS + vertex,) for vertex in range(INNER)))

    def check(self, architecture: Architecture) -> None:
        """See ``SearchSpace.check``."""
        self._cell(architecture)

    def _cell(self, architecture: Architecture) -> Cell:
        """Check an architecture, and return its cell without the vertices that do not count."""
        self.check_spec(architecture)
        choices = architecture.choices
        if len(choices) != PAIRS + INNER:
            raise ArchitectureError(
                f"{len(choices)} choices; a cell has {PAIRS} edge bits and {INNER} operations, "
                f"{PAIRS + INNER} in all. NASBench101Space.from_matrix makes them from a matrix of any size."
            )
        bits, operations = choices[:PAIRS], choices[PAIRS:]
        if not {*bits} <= {0, 1} or not {*operations} <= {*range(len(_NAMES))}:
            raise ArchitectureError(
                f"Edge bits {bits} and operations {operations}; bits are 0 or 1, operations indices into {_NAMES}."
            )
        cell = prune(unpack(sum(bit << i for i, bit in enumerate(bits))), operations)
        if cell is None:
            raise ArchitectureError(f"Edge bits {bits} have no path from the input to the output. Add edges.")
        if cell.edges > MAX_EDGES:
            raise ArchitectureError(
                f"The cell has {cell.edges} edges on paths from the input to the output; at most {MAX_EDGES} are "
                "allowed. Remove some."
            )
        return cell

    def _made(self, cell: Cell) -> Architecture:
        return self.architecture(choices_of(cell))

    @classmethod
    def from_matrix(cls, matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> Architecture:
        """Build an architecture from the published form of a cell.

        Args:
            matrix: Adjacency matrix of two to seven vertices: 1 in row x and column y if there is an edge from vertex x
                to vertex y, otherwise 0. The first vertex is the input and the last one the output, and edges lead
                from lower to higher numbers.
            operations: Names of the operations of the inner vertices.

        Raises:
            ArchitectureError: This is not a cell of the space.
        """
        rows, size = [list(row) for row in matrix], len(matrix)
        unknown = [name for name in operations if name not in _NAMES]
        if not 2 <= size <= VERTICES or len(operations) != size - 2 or unknown:
            raise ArchitectureError(
                f"Received a matrix of {size} rows and operations {list(operations)!s:.300}; expected 2 to {VERTICES} "
                f"rows and two operations fewer, of {list(_NAMES)}."
            )
        if any(
            len(row) != size or any(bit not in (0, 1) or (bit and y <= x) for y, bit in enumerate(row))
            for x, row in enumerate(rows)
        ):
            raise ArchitectureError(
                f"The matrix is {rows!s:.300}; expected {size} columns of 0 and 1, and 1 only above the diagonal. "
                "Number the vertices so that edges lead from lower to higher numbers."
            )
        inputs = tuple(sum(int(rows[x][y]) << x for x in range(y)) for y in range(1, size))
        return cls()._made(Cell(inputs, tuple(_NAMES.index(name) for name in operations)))

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the form that all architectures with the same key share.

        Its vertices are numbered canonically, and those that do not count are removed.

        Args:
            architecture: A point of this space.
        """
        return self._made(canonical(self._cell(architecture)))

    def key(self, architecture: Architecture) -> str:
        """Return the published hash of the cell in hexadecimal digits, which is the same for all isomorphic cells.

        Args:
            architecture: A point of this space.
        """
        return cell_hash(self._cell(architecture))

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw uniformly from the 423,624 networks, instead of the many matrices that stand for them.

        All 21 bits and 5 operations are drawn until they are the canonical form of a cell, of which every network has
        exactly one.

        Args:
            generator: Source of randomness, on the CPU.
        """
        numbered = numbered_graphs()
        while True:
            draws = torch.randint(len(_NAMES) ** INNER << PAIRS, (_DRAWS,), generator=generator)
            for draw in draws[torch.from_numpy(numbered[draws.numpy() & (1 << PAIRS) - 1])].tolist():
                operations = [draw // (len(_NAMES) ** i << PAIRS) % len(_NAMES) for i in range(INNER)]
                inputs = [mask for mask in unpack(draw) if mask]
                cell = Cell(tuple(inputs), tuple(operations[: len(inputs) - 1]))
                if not any(operations[len(inputs) - 1 :]) and is_canonical(cell):
                    return Architecture(_SPEC, choices_of(cell))

    def listing(self) -> Any:
        """Return the choices of all 423,624 networks in canonical form; see ``SearchSpace.listing``."""
        return all_choices()

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Yield all other networks that one edit leads to, each once.

        An edit flips one of the 21 bits or changes one operation. Vertices that do not count keep their edges, so that
        one more edge may bring them back. Vertices without edges could not come back in this way, so a cell with fewer
        than seven vertices that count has one more kind of edit: it inserts a vertex between two vertices, with any
        operation, one incoming and one outgoing edge.

        Args:
            architecture: A point of this space.
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
        """Yield the choices after every edit, valid or not."""
        choices = architecture.choices
        for i, choice in enumerate(choices):
            for other in range(2 if i < PAIRS else len(_NAMES)):
                if other != choice:
                    yield (*choices[:i], other, *choices[i + 1 :])
        cell = self._cell(architecture)
        if len(cell.operations) == INNER:
            return
        for source in range(len(cell.inputs)):
            # the new vertex comes right after its source, and the numbers of the vertices above it grow by one
            below = (1 << source + 1) - 1
            moved = [mask & below | (mask & ~below) << 1 for mask in cell.inputs]
            for to in range(source, len(moved)):
                inputs = [*moved[:source], 1 << source, *moved[source:]]
                inputs[to + 1] |= 1 << source + 1
                for operation in range(len(_NAMES)):
                    operations = (*cell.operations[:source], operation, *cell.operations[source:])
                    yield choices_of(Cell(tuple(inputs), operations))

    def largest(self) -> Architecture:
        """Return a cell with the most parameters: a chain of five 3x3 convolutions, four of them with projections.

        Only one vertex leads to the output, because several would have to share its channels. The five edges of the
        chain leave four of the nine edges to read the input. All such cells have the same number of parameters.
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

        Where the channels of the output do not divide among the vertices that it concatenates, the first of them take
        one more. So the order of the vertices may change the number of parameters a little, as in the published code.

        Args:
            architecture: A point of this space.
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.
            channels: Channels of the first stack.
            cells: Number of cells of each of the three stacks.
            auxiliary: Must be False: the published network has no auxiliary classifier.

        Raises:
            ArchitectureError: The architecture belongs to another space.
            ConfigError: An auxiliary classifier is requested, or there are fewer channels than vertices that the
                output concatenates.
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
        inputs, names = [bits_of(mask) for mask in cell.inputs], [_NAMES[i] for i in cell.operations]
        return NASBench101Network(inputs, names, num_classes, image_shape[0], channels, cells)

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """Return the cell as a graph for drawing, with operations on its nodes, and without vertices that do not count.

        Args:
            architecture: A point of this space.
        """
        cell = self._cell(architecture)
        edges = [(source, to, "") for to, mask in enumerate(cell.inputs, 1) for source in bits_of(mask)]
        return [Graph("cell", ("input", *(_NAMES[i] for i in cell.operations), "output"), tuple(edges))]

    def features(self, architecture: Architecture) -> Features:
        """Return what the cell computes, the same for isomorphic cells; see ``features.vertex_features``."""
        return vertex_features(*self.graphs(architecture))

    def text(self, architecture: Architecture) -> str:
        """Return the canonical form in words, such as ``conv3x3-bn-relu(0) maxpool3x3(0,1) output(0,2)``.

        These are the vertices from number 1 on, each with the vertices that it reads; 0 is the input.

        Args:
            architecture: A point of this space.
        """
        cell = canonical(self._cell(architecture))
        names = (*(_NAMES[i] for i in cell.operations), "output")
        return " ".join(
            f"{name}({','.join(map(str, bits_of(mask)))})" for name, mask in zip(names, cell.inputs, strict=True)
        )

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read what ``text`` wrote, or a cell in the same form whose vertices are in another order.

        Args:
            text: A cell such as ``conv3x3-bn-relu(0) maxpool3x3(0,1) output(0,2)``.

        Raises:
            ArchitectureError: The text is not a cell of this space.
        """
        words = [_VERTEX.fullmatch(word) for word in text.split()]
        found = [(word[1], [int(source) for source in word[2].split(",")]) for word in words if word]
        ordered = all(source < to for to, (_, sources) in enumerate(found, 1) for source in sources)
        names = [name for name, _ in found]
        if len(found) != len(words) or not ordered or names[-1:] != ["output"] or not {*names[:-1]} <= {*_NAMES}:
            raise ArchitectureError(
                f"Not a cell of NAS-Bench-101: received {text[:200]!r}. The form is 'conv3x3-bn-relu(0) "
                f"maxpool3x3(0,1) output(0,2)': the vertices from number 1 on, each with the vertices before it that "
                f"it reads, and operations from {list(_NAMES)}."
            )
        size = len(found) + 1
        matrix = [[int(y > 0 and x in found[y - 1][1]) for y in range(size)] for x in range(size)]
        return cls.from_matrix(matrix, names[:-1])
