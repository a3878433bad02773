"""BANANAS: what its ensemble sees, and which mutants it asks for."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from lightning_nas.errors import ConfigError
from lightning_nas.predictors.regressors import MLP, Predictor
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.bananas import BANANAS
from lightning_nas.strategies.random_search import RandomSearch
from tests.strategies.rugged import TWO, searched, tell, value

THREE = NASBench201Space(("none", "skip_connect", "nor_conv_3x3"))  # 729 architectures


class Known(Predictor):
    """Predicts the sum of the features, and noise of the seed."""

    def __init__(self, spread: float) -> None:
        self.spread = spread
        self.seen: list[Any] = []

    def regressor(self, seed: int) -> Any:
        raise NotImplementedError

    def predict(self, known: Any, performance: Any, others: Any, seed: int) -> Any:
        self.seen.append((known, others, seed))
        return others.sum(1) + self.spread * np.random.default_rng(seed).normal(size=len(others))


def begun(strategy: BANANAS, seed: int = 0) -> BANANAS:
    strategy.start(THREE, seed=seed)
    tell(strategy, strategy.ask(20))
    return strategy


def test_it_asks_for_the_mutants_of_the_best_that_score_most() -> None:
    ensemble = Known(0.0)
    strategy = begun(BANANAS(ensemble, predictors=3, initial=20, candidates=30, parents=4, groups=["operations"]))
    best = sorted(strategy.evaluated.values(), key=value, reverse=True)[:4]
    near = {THREE.key(a) for parent in best for a in THREE.neighbours(parent)} - set(strategy.evaluated)
    asked = strategy.ask(5)
    assert {THREE.key(a) for a in asked} <= near
    assert len({seed for *_, seed in ensemble.seen}) == len(ensemble.seen) == 3
    known, others, _ = ensemble.seen[0]
    assert (len(known), len(others)) == (20, 30)
    named = [sum(THREE.features(a)["operations"].values()) for a in strategy.evaluated.values()]
    assert known.sum(1).tolist() == named  # the groups that are asked for, and no others
    sums = [sum(THREE.features(a)["operations"].values()) for a in asked]
    assert sums == sorted(others.sum(1).tolist(), reverse=True)[:5]


def test_scores_are_drawn_anew_where_the_ensemble_disagrees() -> None:
    certain, unsure = (begun(BANANAS(Known(spread), initial=20)) for spread in (0.0, 100.0))
    best = []
    for strategy in (certain, unsure):
        asked = strategy.ask(10)
        best.append(sum(sum(map(len, THREE.features(a).values())) for a in asked))
    assert best[0] != best[1]
    assert certain.ask(3) != unsure.ask(3)


def test_it_beats_random_search() -> None:
    strategies: list[Any] = [BANANAS(MLP((10,), 30), predictors=3), RandomSearch()]
    best = [max(map(value, searched(strategy, 50, count=10, space=THREE))) for strategy in strategies]
    assert best[0] == max(map(value, map(THREE.architecture, product(range(3), repeat=6)))) > best[1]


def test_it_goes_on_until_the_space_is_exhausted() -> None:
    found = searched(BANANAS(Known(1.0), candidates=8), 100, space=TWO)
    assert len(found) == len({TWO.key(a) for a in found}) == 64


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"predictors": 1}, "predictors is 1"),
        ({"initial": 1}, "initial is 1"),
        ({"candidates": 0}, "candidates is 0"),
        ({"parents": 0}, "parents is 0"),
    ],
)
def test_wrong_numbers_are_named(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        BANANAS(**wrong)
