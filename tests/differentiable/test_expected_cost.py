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


def test_shares_are_those_of_the_convolutions(tmp_path: Path) -> None:
    cost = ExpectedCost(weight=0.7, uniform=0.5)
    task(tmp_path, cost)
    # two cells each with 2, 4 and 8 channels; the batch norms of a supernet have no weights
    by_hand = torch.tensor([0.0, 2 * (4 + 16 + 64), 2 * 9 * (4 + 16 + 64)]).expand(6, 3)
    expected = by_hand / by_hand.sum() + 0.5 / 18
    assert torch.allclose(cost.costs["cell"], expected)
    alphas = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    penalty = cost.penalty({"cell": alphas}, 0.0)
    factors = 1 / (1 + (-alphas).exp())
    assert torch.allclose(penalty, 0.7 * (factors * expected).sum())
    (gradient,) = torch.autograd.grad(penalty, alphas)
    assert torch.allclose(gradient, 0.7 * expected * factors * (1 - factors))


def test_both_cell_types_of_darts_share_one_total(tmp_path: Path) -> None:
    cost = ExpectedCost(uniform=0.0)
    space = DARTSSpace(nodes=2, channels=2, cells=3, operations=("skip_connect", "sep_conv_3x3"))
    made = make(tmp_path, space=space, relaxation=Sigmoid(), regularizers=[cost])
    # cells of 2, 4 and 8 channels: a normal one and two reductions, where a skip from an input halves by convolutions
    both = sum(float(each.sum()) for each in cost.costs.values())
    assert both == pytest.approx(1.0)
    separable = [2 * (9 * c + c * c) for c in (2, 4, 8)]
    ratio = float(cost.costs["reduce"][0, 1] / cost.costs["normal"][0, 1])
    assert ratio == pytest.approx((separable[1] + separable[2]) / separable[0])
    assert float(cost.costs["normal"][:, 0].sum()) == 0.0
    assert (cost.costs["reduce"][:, 0] > 0).tolist() == [True, True, True, True, False]
    assert made.regularizers == [cost]


def test_the_cost_of_the_first_supernet_stays(tmp_path: Path) -> None:
    cost = ExpectedCost()
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
    with pytest.raises(ConfigError, match="weight is -1"):
        ExpectedCost(weight=-1)
