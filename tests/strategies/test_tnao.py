"""Searches in the code space of an auto-encoder."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.tnao import CodeSearch, GradientAscent, SwarmSearch
from tests.predictors.trained import trained


@pytest.fixture(scope="module")
def made() -> tuple[NASBench201Space, ArchitectureAutoEncoder, list[Any]]:
    return trained()


@pytest.mark.parametrize("strategy", [SwarmSearch(), SwarmSearch(uniform=True), GradientAscent(best=20)])
def test_codes_with_high_scores_are_good_architectures(made: Any, strategy: Any) -> None:
    space, autoencoder, known = made
    known = [a for a in known if a.choices.count(2) < 5]
    strategy.start(space)
    strategy.tell([(a, Evaluation({"accuracy": float(a.choices.count(2))})) for a in known])
    strategy.autoencoder = autoencoder
    asked = strategy.ask(4)
    assert len(asked) == 4
    assert not set(asked) & set(known)
    assert max(a.choices.count(2) for a in asked) >= 5
    assert sum(a.choices.count(2) for a in asked) / 4 > 3  # the known ones have 1.9


def test_what_is_no_architecture_is_worth_nothing_and_not_asked_for(made: Any) -> None:
    space, autoencoder, known = made
    limited = ConstrainedSpace(space, lambda a: {"convolutions": float(a.choices.count(2))}, {"convolutions": 3})
    few = [a for a in known if limited.allows(a)]
    strategy = SwarmSearch()
    strategy.start(limited)
    strategy.tell([(a, Evaluation({"accuracy": float(a.choices.count(2))})) for a in few])
    strategy.autoencoder = autoencoder
    asked = strategy.ask(30)
    assert asked
    assert max(a.choices.count(2) for a in asked) == 3
    scores = strategy.record(torch.tensor([[2] * 6, [1] * 6]), torch.tensor([5.0, 4.0]))
    assert scores.tolist() == [-torch.inf, 4.0]


def test_the_highest_score_of_an_architecture_counts() -> None:
    class Given(CodeSearch):
        def explore(self, codes: Tensor, fitness: Tensor) -> None:
            choices = torch.tensor([[1] * 6, [2] * 6, [1] * 6])
            self.record(choices, torch.tensor([1.0, 2.0, 3.0]))
            self.record(choices[:2], torch.tensor([0.0, 2.5]))

    space = NASBench201Space()
    strategy = Given()
    strategy.start(space)
    strategy.tell([(space.architecture([0] * 6), Evaluation({"accuracy": 1.0}))])
    strategy.autoencoder = ArchitectureAutoEncoder(space.num_values)
    assert [a.choices for a in strategy.ask(5)] == [(1,) * 6, (2,) * 6]


def test_gradient_ascent_proposes_the_smallest_steps_first(made: Any) -> None:
    space, autoencoder, known = made
    known = [a for a in known if a.choices.count(2) < 4]
    results = [(a, Evaluation({"accuracy": float(a.choices.count(2))})) for a in known]
    asked = []
    for steps in (2, 5, 30):
        strategy = GradientAscent(best=20, step=0.5, steps=steps)
        strategy.start(space)
        strategy.tell(results)
        strategy.autoencoder = autoencoder
        asked.append(strategy.ask(1000))
    assert 0 < len(asked[0]) < len(asked[1]) <= len(asked[2])
    for fewer, more in pairwise(asked):
        assert more[: len(fewer)] == fewer


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ConfigError, match="step is 0"):
        GradientAscent(step=0)
    with pytest.raises(ConfigError, match="best is 0"):
        GradientAscent(best=0)
    strategy = SwarmSearch()
    strategy.start(NASBench201Space())
    with pytest.raises(ConfigError, match="has no auto-encoder and knows 0"):
        strategy.ask(1)
