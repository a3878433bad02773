"""The largest architecture within constraints, against a search of the whole space."""

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.spaces import ConstrainedSpace, DARTSSpace, NASBench201Space

SPACE = NASBench201Space()
WEIGHTS = (0.0, 0.0, 1.0, 9.0, 0.0)  # none, skip, 1x1, 3x3, pool


def size(architecture: Architecture) -> dict[str, float]:
    return {"parameters": 1.0 + sum(WEIGHTS[choice] for choice in architecture.choices)}


def connected(architecture: Architecture) -> bool:
    """By hand: the edges are 0-1, 0-2, 1-2, 0-3, 1-3, 2-3."""
    a, b, c, d, e, f = (choice != 0 for choice in architecture.choices)
    return d or (a and e) or (b and f) or (a and c and f)


@pytest.mark.parametrize("bound", [1, 2, 5, 12, 20, 31, 45, 55])
def test_the_largest_is_connected_and_as_large_as_any(bound: float) -> None:
    cells = [SPACE.architecture(choices) for choices in torch.cartesian_prod(*[torch.arange(5)] * 6).tolist()[::7]]
    allowed = [cell for cell in cells if connected(cell) and size(cell)["parameters"] <= bound]
    found = ConstrainedSpace(SPACE, size, {"parameters": bound}).largest()
    assert connected(found)
    assert max(size(cell)["parameters"] for cell in allowed) <= size(found)["parameters"] <= bound


def test_whether_a_cell_is_connected_is_read_from_its_graph() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        cell = SPACE.sample(generator)
        (graph,) = SPACE.graphs(cell)
        assert graph.connected == connected(cell)
    darts = DARTSSpace()
    assert all(graph.connected for graph in darts.graphs(darts.sample(generator)))


def test_bounds_that_nothing_meets_are_refused() -> None:
    with pytest.raises(ConfigError, match="closer to satisfying"):
        ConstrainedSpace(SPACE, size, {"parameters": 0.5}).largest()
