"""Synaptic flow, against the formula."""

import math

import pytest
import torch
from torch import nn

from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.zero_cost import Probe, SynFlow, ZeroCost
from lightning_nas.spaces.nasbench201.space import NASBench201Space


def test_a_linear_network_has_the_product_of_its_layers_once_a_layer() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4, bias=False)
    )
    network(torch.randn(8, 2, 1, 1))  # the batch norm has statistics of its own
    conv, linear = (network[i].weight.detach().abs().double() for i in (0, 4))
    # an untrained batch norm divides by sqrt(1 + eps)
    flow = (linear @ conv.flatten(1) @ torch.ones(2, dtype=torch.float64)).sum() / math.sqrt(1 + 1e-5)
    probe = Probe(network, torch.randn(8, 2, 1, 1), torch.arange(8) % 4, 4)
    assert SynFlow().score(probe) == pytest.approx(math.log(2 * float(flow)), rel=1e-12)


def test_scores_depend_on_the_architecture_alone() -> None:
    space, score = NASBench201Space(), ZeroCost([SynFlow()], channels=4)
    cells = [space.largest(), *space.neighbours(space.largest())]
    state = torch.get_rng_state()
    first = [e.objectives for e in score.evaluate(cells)]
    assert torch.equal(torch.get_rng_state(), state)
    assert first == [e.objectives for e in ZeroCost([SynFlow()], channels=4).evaluate(cells[::-1])][::-1]
    assert first != [e.objectives for e in ZeroCost([SynFlow()], channels=4, seed=1).evaluate(cells)]
    # every path that is taken away takes flow away
    assert max(first, key=lambda e: e["synflow"]) is first[0]
    (empty,) = score.evaluate([space.architecture([0] * 6)])
    assert empty.objectives["synflow"] == -math.inf


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels is 0"):
        ZeroCost(channels=0)
