"""Weak predictors: what they learn, and what the search asks for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.predictors.regressors import Predictor, RandomForest
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench101.space import NASBench101Space
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


class Best(Predictor):
    """Prefers large features of the right kind, and remembers what it was given."""

    def regressor(self, seed: int) -> Any:
        raise NotImplementedError

    def predict(self, known: Any, performance: Any, others: Any, seed: int) -> Any:
        self.known, self.others = known, others
        return others @ np.arange(others.shape[1])


def test_without_a_pool_the_whole_space_is_scored() -> None:
    predictor = Best()
    strategy = WeakPredictors(predictor, initial=5, top=3, pool=None)
    strategy.start(SPACE, seed=1)
    tell(strategy, strategy.ask(5))
    strategy.tell_failed([SPACE.architecture((0, 0, 0, 0, 0, 1))])
    asked = strategy.ask(3)
    assert predictor.others.shape == (5**6 - 6, 30)
    scores = np.sort(predictor.others @ np.arange(30))[::-1]
    assert sorted(map(sum, (a.choices for a in asked)), reverse=True)[0] == 24
    assert len(scores) == len(set(map(tuple, predictor.others.tolist())))
    tell(strategy, asked)
    strategy.ask(1)
    assert predictor.others.shape == (5**6 - 9, 30)
    resumed = WeakPredictors(predictor, initial=5, top=3, pool=None)
    resumed.start(SPACE, seed=1)
    resumed.load_state_dict(strategy.state_dict())
    assert resumed.ask(2) == strategy.ask(2)


def test_of_the_whole_space_only_what_satisfies_the_constraints_is_asked() -> None:
    looked_up = []

    def costs(architecture: Architecture) -> dict[str, float]:
        looked_up.append(architecture)
        return {"sum": 1.0 + sum(architecture.choices)}

    space = ConstrainedSpace(SPACE, costs, {"sum": 22})
    strategy = WeakPredictors(Best(), initial=2, top=4, pool=None)
    strategy.start(space, seed=0)
    tell(strategy, [SPACE.architecture((0,) * 6), SPACE.architecture((1,) * 6)])
    looked_up.clear()
    asked = strategy.ask(4)
    assert [sum(a.choices) for a in asked] == [21] * 4
    assert len(looked_up) < 200


def test_isomorphic_cells_have_the_same_features() -> None:
    space = NASBench101Space()
    names = ["conv3x3-bn-relu", "maxpool3x3"]
    twins = [
        space.from_matrix([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], order)
        for order in (names, names[::-1])
    ]
    assert twins[0] != twins[1]
    rows = []
    for twin in twins:
        predictor = Best()
        strategy = WeakPredictors(predictor, initial=2, pool=30)
        strategy.start(space, seed=0)
        strategy.tell([(each, Evaluation({"accuracy": 1.0})) for each in (twin, space.largest())])
        strategy.ask(1)
        rows.append(predictor.known)
    assert (rows[0] == rows[1]).all()
    darts = DARTSSpace(nodes=1)
    a, b = (darts.architecture(choices) for choices in ((0, 3, 1, 4, 1, 2, 0, 1), (1, 4, 0, 3, 0, 1, 1, 2)))
    assert darts.key(a) == darts.key(b)
    assert darts.canonical(a) == darts.canonical(b) == darts.architecture((0, 3, 1, 4, 0, 1, 1, 2))


def test_a_space_that_cannot_be_listed_needs_a_pool() -> None:
    with pytest.raises(ConfigError, match="at most 1000000 can be listed. .* pool: 5000"):
        WeakPredictors(pool=None).start(DARTSSpace())
