"""Rank losses, written out."""

import math

import pytest
import torch
from torch import Tensor

from lightning_nas.errors import ConfigError
from lightning_nas.predictors.rank_losses import PairwiseHinge, PairwiseLogistic, RankLoss, RankRegression

SCORES = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
TRUTH = torch.tensor([0.5, 0.9, 0.7, 0.5], dtype=torch.float64)


def written_out(apart: float, term: object) -> float:
    deviation = float(TRUTH.std(correction=0))
    terms = [
        term(float(SCORES.detach()[i] - SCORES.detach()[j]))  # type: ignore[operator]
        for i in range(4)
        for j in range(4)
        if TRUTH[i] - TRUTH[j] > apart * deviation
    ]
    assert terms
    return sum(terms) / len(terms)


@pytest.mark.parametrize("apart", [0.0, 1.3])
def test_pairs_are_those_whose_truths_are_apart(apart: float) -> None:
    hinge = PairwiseHinge(margin=0.7, apart=apart).loss(SCORES, TRUTH)
    assert float(hinge.detach()) == pytest.approx(written_out(apart, lambda d: max(0.0, 0.7 - d)))
    logistic = PairwiseLogistic(apart=apart).loss(SCORES, TRUTH)
    assert float(logistic.detach()) == pytest.approx(written_out(apart, lambda d: math.log(1 + math.exp(-d))))


def test_ranks_are_spread_evenly_and_shared_by_equals() -> None:
    wanted = torch.tensor([-2 / 3, 1.0, 1 / 3, -2 / 3], dtype=torch.float64)
    expected = (SCORES - wanted).square().mean()
    torch.testing.assert_close(RankRegression().loss(SCORES, TRUTH), expected)
    torch.testing.assert_close(RankRegression().loss(SCORES, TRUTH.exp()), expected)


@pytest.mark.parametrize("loss", [PairwiseHinge(), PairwiseLogistic(), RankRegression()])
def test_descent_ranks(loss: RankLoss) -> None:
    scores = SCORES.detach().clone().requires_grad_()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(loss.loss(scores, TRUTH), scores)
        scores = (scores - 0.5 * gradient).detach().requires_grad_()
    assert scores[1] > scores[2] > max(scores[0], scores[3])


@pytest.mark.parametrize("loss", [PairwiseHinge(), PairwiseLogistic()])
@pytest.mark.parametrize("performance", [torch.ones(3), torch.ones(1)])
def test_where_nothing_is_better_there_is_no_loss(loss: RankLoss, performance: Tensor) -> None:
    scores = torch.randn(len(performance), requires_grad=True)
    found = loss.loss(scores, performance)
    assert float(found.detach()) == 0
    found.backward()
    assert scores.grad is not None
    assert not scores.grad.any()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="margin is 0"):
        PairwiseHinge(margin=0)
    with pytest.raises(ConfigError, match="apart is -1"):
        PairwiseLogistic(apart=-1)
