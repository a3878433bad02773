"""Penalties on the alphas against their formulas, written as loops."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_nas.differentiable import Regularizer, SearchModel, SoftmaxScore
from lightning_nas.differentiable.objective import SearchObjective
from lightning_nas.differentiable.regularization.beta_decay import BetaDecay
from lightning_nas.differentiable.regularization.edge_variance import EdgeVariance
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace

SPACE = DARTSSpace(nodes=3)


@pytest.fixture
def alphas() -> Tensor:
    return torch.randn(SPACE.edges, 8, dtype=torch.float64)


def test_beta_decay_is_the_mean_logsumexp_rising_with_the_epochs(alphas: Tensor) -> None:
    other = torch.randn_like(alphas)
    expected = sum(sum(math.log(sum(math.exp(v) for v in row)) for row in a.tolist()) / len(a) for a in (alphas, other))
    found = BetaDecay(weight=50).penalty({"normal": alphas, "reduce": other}, 0.4)
    assert found.item() == pytest.approx(50 * 0.4 * expected)
    assert BetaDecay().penalty({"normal": alphas}, 0.0) == 0


def test_edge_variance(alphas: Tensor) -> None:
    sizes = [math.sqrt(sum(v * v for v in row)) for row in alphas.tolist()]
    mean = sum(sizes) / len(sizes)
    expected = sum((s - mean) ** 2 for s in sizes) / len(sizes)
    assert EdgeVariance(weight=3).penalty({"normal": alphas}, 0.5).item() == pytest.approx(3 * expected)
    zeros = torch.zeros(4, 3, requires_grad=True)
    EdgeVariance().penalty({"normal": zeros}, 0.5).backward()
    assert torch.isfinite(zeros.grad).all()


class Broken(Regularizer):
    """A penalty that is no scalar tensor."""

    def __init__(self, term: Any) -> None:
        self.term = term

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Any:
        return self.term


@pytest.mark.parametrize(("term", "received"), [(torch.ones(3), r"shape \(3,\)"), (0.5, "0.5"), (None, "None")])
def test_a_penalty_that_is_no_scalar_is_refused(term: Any, received: str) -> None:
    model = SearchModel(SPACE, SoftmaxScore(), image_shape=(3, 8, 8), num_classes=3)
    with pytest.raises(ConfigError, match=rf"Broken returned .*{received}.*one value and no"):
        SearchObjective(model, [Broken(term)], seed=0).penalty()
