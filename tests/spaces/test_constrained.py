"""The largest architecture within constraints, against a search of the whole space."""

from functools import cache

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.spaces import ConstrainedSpace, DARTSSpace, NASBench101Space, NASBench201Space, SinglePathSpace

SPACE = NASBench201Space()
WEIGHTS = (0.0, 0.0, 1.0, 9.0, 0.0)  # none, skip, 1x1, 3x3, pool


def size(architecture: Architecture) -> dict[str, float]:
    return {"parameters": 1.0 + sum(WEIGHTS[choice] for choice in architecture.choices)}


def connected(architecture: Architecture) -> bool:
    """By hand: the edges are 0-1, 0-2, 1-2, 0-3, 1-3, 2-3."""
    a, b, c, d, e, f = (choice != 0 for choice in architecture.choices)
    return d or (a and e) or (b and f) or (a and c and f)


@cache
def live_sizes() -> list[tuple[Architecture, int]]:
    """Some cells with the parameters of those edges that a path from the input to the output takes."""
    cells = [SPACE.architecture(choices) for choices in torch.cartesian_prod(*[torch.arange(5)] * 6).tolist()[::7]]
    return [(cell, SPACE.parameter_count(cell)) for cell in cells if connected(cell)]


def latency(architecture: Architecture) -> dict[str, float]:
    """Slow where much is computed one after the other, and hardly so where pooling saves work."""
    a, b, c, d, e, f = (1.0 + WEIGHTS[choice] - (choice == 4) for choice in architecture.choices)
    return {"latency": max(d, b + f, a + e, a + c + f) + 0.05 * (a + b + c + d + e + f)}


@pytest.mark.parametrize("bound", [1, 2, 5, 12, 20, 31, 45, 55])
def test_the_largest_is_connected_and_as_large_as_any(bound: float) -> None:
    allowed = [parameters for cell, parameters in live_sizes() if size(cell)["parameters"] <= bound]
    found = ConstrainedSpace(SPACE, size, {"parameters": bound}).largest()
    assert connected(found)
    assert size(found)["parameters"] <= bound
    assert SPACE.parameter_count(found) >= max(allowed)


@pytest.mark.parametrize("bound", [4, 8, 12, 16, 20, 24])
def test_the_largest_does_not_depend_on_what_the_constraints_limit(bound: float) -> None:
    allowed = [parameters for cell, parameters in live_sizes() if latency(cell)["latency"] <= bound]
    found = ConstrainedSpace(SPACE, latency, {"latency": bound}).largest()
    assert connected(found)
    assert latency(found)["latency"] <= bound
    assert SPACE.parameter_count(found) >= 0.9 * max(allowed)


def test_the_largest_has_its_parameters_where_they_have_an_effect() -> None:
    # one 3x3 and one 1x1 convolution are within the bound: on a path, not beside a skip connection
    found = ConstrainedSpace(SPACE, size, {"parameters": 11}).largest()
    (graph,) = SPACE.graphs(found)
    assert SPACE.parameter_count(found) == sum(SPACE.candidates[i].parameter_count for i in (2, 3))
    assert len(graph.edges) >= 2


def test_spaces_count_parameters_by_their_networks() -> None:
    cell = NASBench101Space.parse("conv3x3-bn-relu(0) output(1)")
    smaller = NASBench101Space.parse("conv1x1-bn-relu(0) output(1)")
    counts = []
    for each in (cell, smaller):
        network = NASBench101Space().network(each, num_classes=10, image_shape=(3, 8, 8), channels=16, cells=1)
        counts.append(sum(parameter.numel() for parameter in network.parameters()))
    state = torch.get_rng_state()
    assert [NASBench101Space().parameter_count(each) for each in (cell, smaller)] == counts
    assert torch.equal(torch.get_rng_state(), state)
    chain = SinglePathSpace(widths=[16, 32], depths=[1, 2], strides=[1, 2], stem_stride=1)
    sizes = [chain.parameter_count(chain.architecture(choices)) for choices in ((0, 0, 0), (1, 0, 0), (2, 2, 2))]
    networks = [
        chain.network(chain.architecture(choices), num_classes=2, image_shape=(3, 8, 8))
        for choices in ((0, 0, 0), (1, 0, 0), (2, 2, 2))
    ]
    totals = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    assert [total - totals[0] for total in totals] == [count - sizes[0] for count in sizes]


def test_whether_a_cell_is_connected_is_read_from_its_graph() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        cell = SPACE.sample(generator)
        (graph,) = SPACE.graphs(cell)
        assert graph.connected == connected(cell)
    darts = DARTSSpace()
    assert all(graph.connected for graph in darts.graphs(darts.sample(generator)))


def test_bounds_that_nothing_meets_are_refused() -> None:
    looked_up = []

    def counted(architecture: Architecture) -> dict[str, float]:
        looked_up.append(architecture)
        return size(architecture)

    with pytest.raises(ConfigError, match="searched from the largest one, satisfies"):
        ConstrainedSpace(SPACE, counted, {"parameters": 0.5}).largest()
    assert len(looked_up) < 2500
