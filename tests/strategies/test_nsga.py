"""NSGA-II against its definition, and against random search."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pymoo.indicators.hv import HV

from lightning_nas.architecture import Architecture
from lightning_nas.errors import CheckpointError, ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.metrics.pareto import ranked
from lightning_nas.report.front import Front
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.base import Strategy
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.nsga import NSGA2
from lightning_nas.strategies.random_search import RandomSearch
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.synthetic import write_nasbench201

SPACE = NASBench201Space()
COST = "cifar10_params"


def begun(costs: tuple[str, ...] = ("convolutions",), **options: Any) -> NSGA2:
    strategy = NSGA2(**options)
    strategy.costs = costs
    strategy.start(SPACE)
    return strategy


def evaluated(architectures: list[Architecture]) -> list[tuple[Architecture, Evaluation]]:
    return [
        (a, Evaluation({"accuracy": float(sum(a.choices))}, {"convolutions": float(a.choices.count(3))}))
        for a in architectures
    ]


def volume(strategy: Strategy, table: NASBench201Table, seed: int) -> float:
    """What the front of 150 queries dominates: accuracies from 0, parameters up to the most there are."""
    search = QueryHistory(SPACE, TableLookup(table, cost_columns=[COST]), 150)
    strategy.start(SPACE, seed=seed)
    while search.left:
        search.step(strategy, 10)
    found = Front(search.comparable, "accuracy", [COST])
    most = float(table.column(COST).max())
    values = np.array([[-found.points[i][0], found.points[i][1] / most] for i in found.members])
    return float(HV(ref_point=[0.0, 1.0])(values))


def test_its_front_beats_that_of_random_search() -> None:
    table = NASBench201Table(str(write_nasbench201("table.npz")))
    pairs = []
    for seed in range(5):
        strategy = NSGA2()
        strategy.costs = (COST,)
        pairs.append((volume(strategy, table, seed), volume(RandomSearch(), table, seed)))
    assert all(mine > random for mine, random in pairs)
    mine, random = np.mean(pairs, axis=0)
    assert mine - random > 0.05


def test_survivors_are_the_best_by_rank_and_crowding() -> None:
    strategy = begun(population_size=8)
    alive: list[Architecture] = []
    for _ in range(4):
        asked = strategy.ask(6)
        strategy.tell(evaluated(asked))
        alive += asked
        order = ranked([[sum(a.choices), -a.choices.count(3)] for a in alive])
        alive = [alive[i] for i in order[:8]]
        assert [strategy.evaluated[key] for key in strategy.alive] == alive


def test_parents_win_tournaments_of_two() -> None:
    strategy = begun(population_size=4)
    strategy.tell(evaluated(strategy.sample_unseen(4)))
    wins = Counter(strategy.alive.index(SPACE.key(strategy.draw_parent())) for _ in range(4000))
    # drawn with repetition, the k-th of 4 wins if both are no better: (2 (4 - k) - 1) / 16
    for place in range(4):
        assert wins[place] / 4000 == pytest.approx((2 * (4 - place) - 1) / 16, abs=0.03)


def test_children_come_of_both_parents_or_change() -> None:
    crossed = begun(population_size=2, crossover=1.0, mutation=0.0)
    first, second = SPACE.architecture([0, 1, 2, 3, 4, 0]), SPACE.architecture([4, 3, 3, 1, 2, 1])
    crossed.tell(evaluated([first, second]))
    for child in crossed.ask(5):
        assert all(c in pair for c, *pair in zip(child.choices, first.choices, second.choices, strict=True))
    mutated = begun(population_size=2, crossover=0.0, mutation=1.0)
    mutated.tell(evaluated([first, second]))
    assert (
        max(sum(a != b for a, b in zip(mutated.draw_child().choices, first.choices, strict=True)) for _ in range(9)) > 3
    )


def test_wrong_arguments_are_refused() -> None:
    for wrong in ({"population_size": 1}, {"crossover": 1.5}, {"mutation": -0.1}):
        with pytest.raises(ConfigError, match="must (be at least 2|lie in)"):
            NSGA2(**wrong)  # type: ignore[arg-type]
    strategy = begun(("latency_ms",))
    with pytest.raises(ConfigError, match=r"costs \['convolutions'\], not \['latency_ms'\]"):
        strategy.tell(evaluated(strategy.sample_unseen(1)))
    assert not strategy.evaluated
    strategy = begun()
    (one,) = strategy.sample_unseen(1)
    with pytest.raises(TrainingError, match=r"has \{'convolutions': inf\}"):
        strategy.tell([(one, Evaluation({"accuracy": 0.5}, {"convolutions": float("inf")}))])
    with pytest.raises(CheckpointError, match=r"minimises the costs \['convolutions'\], this one \['macs'\]"):
        begun(("macs",)).load_state_dict(strategy.state_dict())
