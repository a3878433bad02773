"""Bayesian optimization: what it asks for, in spaces that it lists and in pools."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.bananas import BANANAS
from lightning_nas.strategies.bayesian import BayesianOptimization, expected_improvement
from lightning_nas.strategies.random_search import RandomSearch
from tests.strategies.rugged import searched, tell, value

THREE = NASBench201Space(("none", "skip_connect", "nor_conv_3x3"))  # 729 architectures
POOL = {"max_listed": 0, "samples": 20, "parents": 3, "crossovers": 10}


def test_it_finds_the_best_of_a_listed_space_with_few_queries() -> None:
    best = max(map(value, map(THREE.architecture, product(range(3), repeat=6))))
    found = searched(BayesianOptimization(), 60, count=1, space=THREE, seed=1)
    assert max(map(value, found)) == best
    assert len(set(found)) == len(found) == 60
    assert found[:15] == searched(BayesianOptimization(), 15, count=15, space=THREE, seed=1)


@pytest.mark.parametrize("options", [{}, POOL], ids=["listed", "pool"])
def test_it_beats_random_search(options: dict[str, int]) -> None:
    strategies: list[Any] = [BayesianOptimization(initial=10, **options), RandomSearch()]
    best = [max(map(value, searched(strategy, 40, count=3, space=THREE))) for strategy in strategies]
    assert best[0] > best[1] + 1


@pytest.mark.parametrize("options", [{}, POOL], ids=["listed", "pool"])
def test_a_search_gone_on_with_asks_for_the_same(options: dict[str, int]) -> None:
    def make() -> BayesianOptimization:
        return BayesianOptimization(initial=8, refit=4, **options)

    whole = searched(make(), 40, count=2, space=THREE, seed=3)
    strategy = make()
    strategy.start(THREE, seed=3)
    found: list[Architecture] = []
    while len(found) < 40:
        found += (asked := strategy.ask(2))
        tell(strategy, asked)
        state = strategy.state_dict()
        strategy = make()
        strategy.start(THREE, seed=len(found))
        strategy.load_state_dict(state)
    assert found == whole


LIMITED = ConstrainedSpace(THREE, lambda a: {"convolutions": float(a.choices.count(2))}, {"convolutions": 1.5})


@pytest.mark.parametrize("options", [{}, POOL], ids=["listed", "pool"])
def test_constraints_are_kept(options: dict[str, int]) -> None:
    found = searched(BayesianOptimization(initial=8, **options), 40, space=LIMITED)
    assert all(LIMITED.allows(a) for a in found)
    everything = map(THREE.architecture, product(range(3), repeat=6))
    assert max(map(value, found)) == max(value(a) for a in everything if LIMITED.allows(a))


def test_everything_within_constraints_is_found_and_costs_are_looked_up_where_it_matters() -> None:
    looked_up: list[Architecture] = []

    def costs(architecture: Architecture) -> dict[str, float]:
        looked_up.append(architecture)
        return {"convolutions": float(architecture.choices.count(2))}

    space = ConstrainedSpace(THREE, costs, {"convolutions": 0.5})
    strategy = BayesianOptimization(initial=8)
    strategy.start(space)
    tell(strategy, strategy.ask(8))
    looked_up.clear()
    strategy.ask(1)
    assert 0 < len(looked_up) < 729 / 2
    found = searched(strategy, 100, space=space)
    assert len(found) == len({space.key(a) for a in found}) == 64
    assert all(space.allows(a) for a in found)


def test_a_far_outlier_changes_as_little_as_a_near_one() -> None:
    asked = []
    for low in (-10.0, -1e6):
        strategy = BayesianOptimization(initial=20)
        strategy.start(THREE, seed=5)
        first = strategy.ask(20)
        values = [low if i == 3 else value(a) for i, a in enumerate(first)]
        strategy.tell([(a, Evaluation({"accuracy": v})) for a, v in zip(first, values, strict=True)])
        asked.append(strategy.ask(5))
    assert asked[0] == asked[1]


def test_the_sign_of_a_loss_is_changed() -> None:
    asked = []
    for name, sign in (("accuracy", 1.0), ("loss", -1.0)):
        strategy = BayesianOptimization(initial=10)
        strategy.start(THREE, name, seed=5)
        first = strategy.ask(10)
        strategy.tell([(a, Evaluation({name: sign * value(a)})) for a in first])
        asked.append(strategy.ask(5))
    assert asked[0] == asked[1]


def test_parts_can_be_left_out() -> None:
    options: list[dict[str, Any]] = [{}, {"groups": ["edges", "depth"]}, {"weight_per_group": False}, {"noisy": False}]
    strategies = [BayesianOptimization(initial=20, **each) for each in [*options, {"whisker": None}]]
    for strategy in strategies:
        strategy.start(THREE, seed=5)
        first = strategy.ask(20)
        values = [-1e6 if i == 3 else value(a) for i, a in enumerate(first)]
        strategy.tell([(a, Evaluation({"accuracy": v})) for a, v in zip(first, values, strict=True)])
    asked = [tuple(strategy.ask(5)) for strategy in strategies]
    assert len(set(asked)) == len(asked)
    weights = [set(strategy.kernel.weights) for strategy in strategies if strategy.kernel]
    every = set(THREE.features(THREE.largest()))
    assert weights == [every, {"edges", "depth"}, {"all"}, every, every]


@pytest.mark.parametrize("member", [BayesianOptimization, BANANAS])
@pytest.mark.parametrize("groups", [[], ["paths", "weight"]])
def test_groups_that_a_space_lacks_are_refused_at_the_start(member: Any, groups: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"groups is .*edges.*paths"):
        member(groups=groups).start(THREE)


def test_what_failed_is_not_asked_for_again_and_starts_are_made_up_for() -> None:
    strategy = BayesianOptimization(initial=6)
    strategy.start(THREE)
    first = strategy.ask(6)
    tell(strategy, first[:4])
    strategy.tell_failed(first[4:])
    more = strategy.ask(6)
    assert len(more) == 2
    tell(strategy, more)
    failed = strategy.ask(3)
    strategy.tell_failed(failed)
    assert not set(failed) & set(strategy.ask(20))


def test_a_batch_is_spread_out() -> None:
    different = 0
    for seed in range(8):
        strategy = BayesianOptimization(initial=20)
        strategy.start(THREE, seed=seed)
        tell(strategy, strategy.ask(20))
        batch = strategy.ask(8)
        assert batch[:1] == strategy.ask(1)
        different += len({frozenset(THREE.features(a)["paths"].items()) for a in batch})
    assert different > 40  # 36 where proposals do not know of those before them


def test_pools_hold_isomorphic_cells_once() -> None:
    space = NASBench101Space()
    strategy = BayesianOptimization(initial=4, samples=10, parents=2, crossovers=5)
    strategy.start(space, seed=1)
    asked: list[Architecture] = []
    for _ in range(3):
        asked += (more := strategy.ask(4))
        strategy.tell([(a, Evaluation({"accuracy": float(sum(a.choices))})) for a in more])
    assert len({space.key(a) for a in asked}) == len(asked) == 12


def test_nothing_to_compare_by_is_no_error() -> None:
    strategy = BayesianOptimization(initial=5)
    strategy.start(THREE)
    for _ in range(2):
        asked = strategy.ask(5)
        strategy.tell([(a, Evaluation({"accuracy": 0.5})) for a in asked])
    assert len(strategy.evaluated) == 10


def test_expected_improvement_is_the_mean_improvement() -> None:
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    for mean, variance, best in ((0.0, 1.0, 0.5), (1.0, 0.25, 0.0), (-1.0, 4.0, 0.0)):
        drawn = np.maximum(mean + draws * variance**0.5 - best, 0).mean()
        (found,) = expected_improvement(np.array([mean]), np.array([variance]), best)
        assert found == pytest.approx(drawn, rel=0.02)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"initial": 1}, "initial is 1"),
        ({"refit": 0}, "refit is 0"),
        ({"whisker": -1.0}, "whisker is -1.0"),
        ({"max_listed": -1}, "max_listed is -1"),
        ({"samples": 0}, "samples is 0"),
        ({"parents": 0}, "parents is 0"),
        ({"crossovers": -1}, "crossovers is -1"),
    ],
)
def test_wrong_numbers_are_named(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        BayesianOptimization(**wrong)
