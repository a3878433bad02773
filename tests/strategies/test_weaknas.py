"""Weak predictors: what they learn, and what the search asks for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.predictors.regressors import Predictor, RandomForest
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.local_search import LocalSearch
from lightning_nas.strategies.random_search import RandomSearch
from lightning_nas.strategies.weaknas import WeakPredictors

SPACE = NASBench201Space()


def value(architecture: Architecture) -> float:
    c = architecture.choices
    return sum(v * 1.01**i for i, v in enumerate(c)) - 3.0 * (c[0] == 4)


def tell(strategy: Any, architectures: Sequence[Architecture]) -> None:
    strategy.tell([(a, Evaluation({"accuracy": value(a)})) for a in architectures])


def test_rounds_draw_from_the_highest_scored_of_pool_and_neighbours() -> None:
    class Truth(Predictor):
        """Knows the performance of every architecture."""

        def regressor(self, seed: int) -> Any:
            raise NotImplementedError

        def predict(self, known: Any, performance: Any, others: Any, seed: int) -> Any:
            self.shapes = known.shape, others.shape
            cells = others.reshape(-1, 6, 5).argmax(2)
            return np.array([value(SPACE.architecture(c)) for c in cells.tolist()])

    truth = Truth()
    strategy = WeakPredictors(truth, initial=8, top=5, pool=200, parents=2)
    strategy.start(SPACE, seed=4)
    first = strategy.ask(20)
    assert len(first) == 8
    tell(strategy, first)
    asked = strategy.ask(3)
    assert truth.shapes[0] == (8, 30)
    pool = {SPACE.key(a): a for a in strategy.candidates().values()}
    best = sorted(first, key=value, reverse=True)[:2]
    pool |= {SPACE.key(a): a for parent in best for a in SPACE.neighbours(parent)}
    unknown = [a for key, a in pool.items() if key not in strategy.evaluated]
    assert truth.shapes[1] == (len(unknown), 30)
    highest = sorted(unknown, key=value, reverse=True)[:5]
    assert len(asked) == 3
    assert set(asked) < set(highest)
    drawn = {a for _ in range(20) for a in strategy.ask(3)}
    assert drawn == set(highest)


def test_it_beats_random_search_on_a_learnable_objective() -> None:
    best = []
    for make in (lambda: WeakPredictors(top=20, pool=500, parents=5), RandomSearch):
        strategy: Any = make()
        strategy.start(SPACE, seed=2)
        for _ in range(5):
            tell(strategy, strategy.ask(10))
        best.append(value(strategy.best()))
    assert best[0] > best[1] + 1


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="initial is 1"):
        WeakPredictors(initial=1)


def test_what_comes_first_is_asked_until_it_has_nothing() -> None:
    descent = {"from_largest": True, "restarts": False, "first_improvement": True, "patience": 4}
    alone = LocalSearch(**descent)  # type: ignore[arg-type]
    strategy = WeakPredictors(RandomForest(3), initial=30, pool=50, first=LocalSearch(**descent))  # type: ignore[arg-type]
    asked = []
    for each in (alone, strategy):
        each.start(SPACE, seed=5)
        asked.append([])
        while len(asked[-1]) < 40 and (more := each.ask(3)):
            asked[-1] += more
            tell(each, more)
    assert 5 <= len(asked[0]) < 30
    assert asked[1][: len(asked[0])] == asked[0]
    assert len(set(asked[1])) == len(asked[1]) >= 40
