"""The operation noise, and the reduced spaces that are shipped."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder
from lightning_nas.errors import ConfigError
from lightning_nas.pipeline.config import read_yaml
from lightning_nas.spaces.darts.fused_edges import FusedEdges
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.operations import ALL_OPERATIONS
from lightning_nas.tasks.bilevel import BilevelTask
from tests.conftest import ROOT


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [8, 17], ids=["dense", "wide"])
def test_noise_has_the_factors_as_its_deviation_and_nothing_of_the_input(side: int, stride: int) -> None:
    edges = FusedEdges([ALL_OPERATIONS["noise"]], torch.ones(2, 2, 1, dtype=torch.bool), 6, stride)
    weights = torch.tensor([[0.3, 0.4], [1.0, 0.0]]).unsqueeze(2).requires_grad_()
    x = [torch.full((16, 6, side, side), 100.0), torch.zeros(16, 6, side, side)]
    result = edges(x, weights)
    (gradient,) = torch.autograd.grad((result[:, :6] * result[:, 6:].detach()).sum(), weights)
    y = result.detach()
    out = -(-side // stride)
    assert y.shape == (16, 12, out, out)
    first, second = y.split(6, 1)
    assert float(first.mean()) == pytest.approx(0, abs=0.05)
    assert float(first.std()) == pytest.approx(0.5, rel=0.06)
    assert float(second.std()) == pytest.approx(1.0, rel=0.06)
    rest = (first - 0.3 * second) / 0.4  # the noise of the second source
    assert float(rest.std()) == pytest.approx(1.0, rel=0.06)
    assert abs(float((rest * second).mean())) < 0.06
    expected = [[float((second * second).sum()), float((rest * second).sum())], [0.0, 0.0]]
    torch.testing.assert_close(gradient.squeeze(2), torch.tensor(expected), rtol=1e-4, atol=1e-2)
    assert not torch.equal(edges.eval()(x, weights), edges(x, weights))
    nothing = edges(x, weights, active=torch.zeros(2, 2, 1, dtype=torch.bool))
    assert not nothing.any()


def test_noise_beside_other_operations_adds_to_them() -> None:
    """With the noise taken off again, the rest is what it is without it."""
    names = ["max_pool_3x3", "noise", "skip_connect", "sep_conv_3x3", "none"]
    operations = [ALL_OPERATIONS[name] for name in names]
    for stride in (1, 2):
        torch.manual_seed(3)
        edges = FusedEdges(operations, torch.ones(2, 1, 5, dtype=torch.bool), 4, stride)
        x, weights = torch.randn(4, 4, 8, 8), torch.rand(2, 1, 5)
        weights[..., 1] = 0
        plain = edges([x], weights)
        weights[..., 1] = torch.tensor([0.5, 2.0]).unsqueeze(1)
        first, second = (edges([x], weights) - plain).detach().split(4, 1)
        torch.testing.assert_close(4 * first, second, rtol=1e-4, atol=1e-4)
        assert float(first.std()) == pytest.approx(0.5, rel=0.15)


def test_a_network_with_noise_draws_it() -> None:
    space = DARTSSpace(nodes=2, operations=("noise", "sep_conv_3x3"))
    noisy = space.select({name: torch.tensor([[1.0, 0.0]]).expand(5, -1) for name in space.cell_types})
    network = space.network(noisy, num_classes=3, image_shape=(3, 8, 8), channels=4, cells=3).eval()
    x = torch.randn(2, 3, 8, 8)
    assert "('noise', 0)" in space.text(noisy)
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("options", [{"checkpoint_cells": True}, {"hypergradient": SecondOrder()}])
def test_what_needs_a_draw_twice_is_refused(options: dict[str, Any]) -> None:
    space = DARTSSpace(nodes=2, channels=2, cells=3, operations=("noise", "sep_conv_3x3"))
    arguments: dict[str, Any] = {"hypergradient": FirstOrder(), **options}
    with pytest.raises(ConfigError, match="noise draws anew"):
        BilevelTask(
            space=space,
            discretizer=SoftmaxScore(),
            weight_optimizer=torch.optim.SGD,
            alpha_optimizer=torch.optim.Adam,
            image_shape=(3, 8, 8),
            **arguments,
        )


SPACES = {
    "s1": (2, 2),
    "s2": ({"skip_connect", "sep_conv_3x3"},) * 2,
    "s3": ({"none", "skip_connect", "sep_conv_3x3"},) * 2,
    "s4": ({"noise", "sep_conv_3x3"},) * 2,
}


@pytest.mark.parametrize("name", SPACES)
def test_reduced_spaces_have_the_published_operations(name: str) -> None:
    config = read_yaml(Path(ROOT) / "configs" / "search" / f"{name}.yaml")
    space = DARTSSpace(**config["model"]["init_args"]["space"]["init_args"])
    for cell, expected in zip(space.cell_types, SPACES[name], strict=True):
        rows = space.arguments()["allowed"][cell]
        assert len(rows) == 14
        for row in rows:
            assert (len(row) if name == "s1" else set(row)) == expected
    if name == "s1":  # as published, edges 5 and 12 of the normal cell and 6 of the reduction cell stand out
        allowed = space.arguments()["allowed"]
        assert set(allowed["normal"][5]) == {"max_pool_3x3", "skip_connect"}
        assert set(allowed["normal"][12]) == {"dil_conv_3x3", "dil_conv_5x5"}
        assert set(allowed["reduce"][6]) == {"max_pool_3x3", "sep_conv_3x3"}
        counts = [sum("skip_connect" in row for row in allowed[cell]) for cell in space.cell_types]
        assert counts == [12, 6]
