"""All graphs and cells of NAS-Bench-101, and draws by them, against plain code that looks at one cell at a time."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError
from lightning_nas.spaces.nasbench101.listing import all_choices, cells_of, numbered_graphs
from lightning_nas.spaces.nasbench101.space import NASBench101Space

SPACE = NASBench101Space()
PAIRS = [(x, y) for y in range(1, 7) for x in range(y)]
"""Source and target of every bit."""


def plain_sample(generator: torch.Generator) -> Architecture:
    """Draw all bits and operations until they are the canonical form of a cell."""
    while True:
        for draw in torch.randint(243 << 21, (1024,), generator=generator).tolist():
            choices = [draw >> place & 1 for place in range(21)] + [(draw >> 21) // 3**i % 3 for i in range(5)]
            read = {x for (x, _), bit in zip(PAIRS, choices, strict=False) if bit}
            reads = {y for (_, y), bit in zip(PAIRS, choices, strict=False) if bit}
            if sum(choices[:21]) > 9 or read - {0} != reads - {6}:  # quick to see
                continue
            try:
                architecture = SPACE.architecture(choices)
            except ArchitectureError:
                continue
            if SPACE.canonical(architecture) == architecture:
                return architecture


def test_samples_are_the_first_canonical_cells_of_the_random_stream() -> None:
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    for _ in range(10):
        assert SPACE.sample(generators[0]) == plain_sample(generators[1])
        assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_cells_of_a_graph_are_its_canonical_ones() -> None:
    graphs = np.flatnonzero(numbered_graphs())
    assert len(graphs) < 4000
    for bits in np.random.default_rng(0).choice(graphs, 12, replace=False).tolist():
        edges = [bits >> place & 1 for place in range(21)]
        canonical = set()
        for operations in product(range(3), repeat=5):
            architecture = SPACE.architecture([*edges, *operations])
            if SPACE.canonical(architecture) == architecture:
                canonical.add(architecture.choices)
        assert {tuple(choices) for choices in cells_of(bits).tolist()} == canonical


def test_graphs_without_canonical_cells_are_left_out() -> None:
    known = numbered_graphs()
    draws = torch.randint(1 << 21, (100_000,), generator=torch.Generator().manual_seed(1)).unique().tolist()
    looked = 0
    for bits in draws:
        edges = [bits >> place & 1 for place in range(21)]
        read = {x for (x, _), bit in zip(PAIRS, edges, strict=True) if bit}
        reads = {y for (_, y), bit in zip(PAIRS, edges, strict=True) if bit}
        if known[bits] or sum(edges) > 9 or read - {0} != reads - {6}:
            continue
        looked += 1
        some = [
            SPACE.architecture([*edges, *operations]) for operations in ((0,) * 5, (0, 1, 2, 1, 0), (2, 1, 0, 0, 0))
        ]
        assert all(SPACE.canonical(each) != each for each in some)
    assert looked > 50


def test_two_parallel_vertices_are_listed_once() -> None:
    bits = sum(1 << PAIRS.index(pair) for pair in [(0, 1), (0, 2), (1, 6), (2, 6)])
    assert sorted(cells_of(bits)[:, 21:23].tolist()) == [[i, j] for i in range(3) for j in range(i, 3)]


@pytest.mark.slow
def test_all_cells_are_listed_once() -> None:
    choices = all_choices()
    assert len(choices) == len(np.unique(choices, axis=0)) == 423_624
    vertices = Counter((2 + (choices[:, :15].reshape(-1, 15) @ groups() > 0).sum(1)).tolist())
    assert vertices == {2: 1, 3: 6, 4: 84, 5: 2441, 6: 62010, 7: 359082}  # as published


def groups() -> np.ndarray:
    """Which bits lead to which inner vertex."""
    return np.array([[int(y == to) for to in range(1, 6)] for _, y in PAIRS[:15]])
