"""The penalty on the expected cost, against sums by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.regularization.expected_cost import ExpectedCost
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.callbacks.test_p_darts import make

OPERATIONS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3")


def task(folder: Path, cost: ExpectedCost, **options: Any) -> Any:
    space = NASBench201Space(operations=OPERATIONS, channels=2, cells_per_stage=2)

    defaults = {"space": space, "relaxation": Sigmoid(), "discretizer": SoftmaxScore(), "regularizers": [cost]}
    return make(folder, **{**defaults, **options})


def test_the_penalty_is_that_of_the_formula(tmp_path: Path) -> None:
    cost = ExpectedCost(weight=0.7, mu=3.0, floor=0.05)
    task(tmp_path, cost)
    # two cells each with 2, 4 and 8 channels on images of 8x8, 4x4 and 2x2 pixels
    by_hand = 2 * sum(c * c * side * side for c, side in ((2, 8), (4, 4), (8, 2))) / 1e6
    costs = torch.tensor([6.0, 6 + 3 * by_hand, 6 + 3 * 9 * by_hand]).expand(6, 3)
    assert torch.allclose(cost.costs["cell"], costs, rtol=1e-5)
    alphas = torch.randn(6, 3, dtype=torch.float64)
    alphas[4, 1] = -6.0  # below the floor: not counted, and free of charge
    alphas[5, 2] = -torch.inf  # not allowed
    alphas.requires_grad_()
    penalty = cost.penalty({"cell": alphas}, 0.0)
    expected = torch.zeros((), dtype=torch.float64)
    for edges in ([0], [1, 2], [3, 4, 5]):
        factors = [[alphas[e, o].sigmoid() for o in range(3)] for e in edges]
        total = sum(sum(row) for row in factors)
        n = sum(float((f / total).detach()) > 0.05 for row in factors for f in row)
        for e, row in zip(edges, factors, strict=True):
            for o, f in enumerate(row):
                if float((f / total).detach()) > 0.05:
                    expected = expected + (1 + n * f / total).log() * costs[e, o]
    assert torch.allclose(penalty, 0.7 * expected, rtol=1e-6)
    gradients = [torch.autograd.grad(each, alphas)[0] for each in (penalty, 0.7 * expected)]
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-8)
    assert gradients[0].isfinite().all()


def test_without_cost_all_operations_of_all_cells_count_alike(tmp_path: Path) -> None:
    cost = ExpectedCost()
    space = DARTSSpace(nodes=2, channels=2, cells=3, operations=("skip_connect", "sep_conv_3x3"))
    make(tmp_path, space=space, relaxation=Sigmoid(), regularizers=[cost])
    # one normal cell and two reductions
    assert cost.costs["normal"].eq(1.0).all()
    assert cost.costs["reduce"].eq(2.0).all()
    assert cost.weight == 0.0


def test_costs_of_darts_are_those_of_its_operations(tmp_path: Path) -> None:
    cost = ExpectedCost(mu=1e6)
    space = DARTSSpace(nodes=2, channels=2, cells=3, operations=("skip_connect", "sep_conv_3x3"))
    make(tmp_path, space=space, relaxation=Sigmoid(), regularizers=[cost])
    # cells of 2, 4 and 8 channels on 8x8, 4x4 and 2x2 pixels; skips from inputs of reductions halve by convolutions
    separable = [2 * (9 * c + c * c) * side**2 for c, side in ((2, 8), (4, 4), (8, 2))]
    assert cost.costs["normal"][4, 1] == pytest.approx(1 + separable[0])
    assert cost.costs["reduce"][4, 1] == pytest.approx(2 + separable[1] + separable[2])
    assert cost.costs["normal"][:, 0].eq(1.0).all()
    assert (cost.costs["reduce"][:, 0] > 2).tolist() == [True, True, True, True, False]


def test_the_cost_of_the_first_supernet_stays(tmp_path: Path) -> None:
    cost = ExpectedCost(mu=1.0)
    searched = task(tmp_path, cost)
    before = cost.costs["cell"].clone()
    allowed = torch.ones(6, 3, dtype=torch.bool)
    allowed[2, 2] = False
    searched.model.restrict({"cell": allowed})
    assert torch.equal(cost.costs["cell"], before)
    other = ExpectedCost()
    other.load_state_dict(cost.state_dict() | {"weight": 3.0})
    assert other.weight == 3.0
    assert torch.equal(other.costs["cell"], before)


def test_before_a_search_nothing_costs() -> None:
    alphas = torch.randn(4, 3, requires_grad=True)
    penalty = ExpectedCost(weight=2.0).penalty({"cell": alphas}, 0.5)
    assert float(penalty.detach()) == 0.0
    (gradient,) = torch.autograd.grad(penalty, alphas)
    assert not gradient.any()


def test_what_cannot_fall_is_refused(tmp_path: Path) -> None:
    for relaxation in (Softmax(), GumbelSoftmax()):
        with pytest.raises(ConfigError, match=f"those of {type(relaxation).__name__} sum to 1"):
            task(tmp_path, ExpectedCost(), relaxation=relaxation)
    for name, value in (("weight", -1), ("mu", -1), ("floor", 1.0)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            ExpectedCost(**{name: value})
