"""Strategies, each against what its paper says it does."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import CheckpointError, ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.base import Strategy
from lightning_nas.strategies.local_search import LocalSearch
from lightning_nas.strategies.random_search import RandomSearch
from lightning_nas.strategies.regularized_evolution import RegularizedEvolution

TWO = NASBench201Space(("skip_connect", "nor_conv_3x3"))  # 64 architectures
FIVE = NASBench201Space()


def value(architecture: Architecture) -> float:
    """A rugged objective without ties."""
    c = architecture.choices
    return sum(v * 1.01**i for i, v in enumerate(c)) + 2.5 * (c[0] == c[5]) - 1.5 * (c[1] == c[4])


def tell(strategy: Strategy, architectures: Sequence[Architecture]) -> None:
    strategy.tell([(a, Evaluation({"accuracy": value(a)})) for a in architectures])


def searched(strategy: Strategy, queries: int, count: int = 5, space: Any = FIVE, seed: int = 0) -> list[Architecture]:
    """All that a strategy asks for, in order."""
    strategy.start(space, seed=seed)
    found: list[Architecture] = []
    while len(found) < queries and (asked := strategy.ask(min(count, queries - len(found)))):
        found += asked
        tell(strategy, asked)
    return found


def test_random_search_draws_every_architecture_once_and_uniformly() -> None:
    found = searched(RandomSearch(), 100, space=TWO)
    assert len(found) == len(set(found)) == 64
    firsts = Counter(searched(RandomSearch(), 1, space=TWO, seed=seed)[0] for seed in range(640))
    assert len(firsts) == 64
    chi2 = sum((firsts[a] - 10) ** 2 / 10 for a in found)
    assert chi2 < 63 + 5 * (2 * 63) ** 0.5


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_local_search_is_the_loop_written_by_hand(first: bool, count: int) -> None:
    strategy = LocalSearch(from_largest=True, restarts=False, first_improvement=first)
    found = searched(strategy, 1000, count)
    current = FIVE.largest()
    known = {current}
    while True:
        near = list(FIVE.neighbours(current))
        known |= set(near)
        if max(map(value, near)) < value(current):
            break
        current = max(near, key=value)
    assert found[0] == FIVE.largest()
    assert len(set(found)) == len(found)
    if not first:  # otherwise the order of the neighbours decides where it goes
        assert set(found) == known
        assert strategy.best() == current
    best = strategy.best()
    assert all(value(a) <= value(best) for a in FIVE.neighbours(best))


def test_first_improvement_moves_at_once() -> None:
    strategy = LocalSearch(from_largest=False, first_improvement=True)
    strategy.start(FIVE, seed=3)
    (start,) = strategy.ask(1)
    tell(strategy, [start])
    for _ in range(24):
        (near,) = strategy.ask(1)
        assert near in set(FIVE.neighbours(start))
        tell(strategy, [near])
        if value(near) > value(start):
            break
    else:
        pytest.fail("the start was an optimum")
    (after,) = strategy.ask(1)
    assert strategy.current == near
    assert after in set(FIVE.neighbours(near))


def test_local_search_starts_again_at_random_and_ends_with_the_space() -> None:
    found = searched(LocalSearch(from_largest=True), 100, space=TWO)
    assert len(set(found)) == len(found) == 64
    ended = LocalSearch(restarts=False)
    assert len(searched(ended, 1000)) < 1000
    assert ended.ask(1) == []
    assert searched(LocalSearch(), 40, seed=1) != searched(LocalSearch(), 40, seed=2)


def test_neighbours_are_looked_at_in_random_order() -> None:
    orders = {tuple(searched(LocalSearch(from_largest=True), 25, seed=seed)[1:]) for seed in range(5)}
    assert len(orders) == 5
    assert len({frozenset(order) for order in orders}) == 1


def test_patience_ends_a_descent_early() -> None:
    strategy = LocalSearch(from_largest=True, restarts=False, patience=5)
    found = searched(strategy, 1000, 100)
    best = max(found, key=value)
    after = found[found.index(best) + 1 :]
    assert 5 <= len(after) <= 4 + 5  # the siblings asked for after it, and neighbours of its own
    with pytest.raises(ConfigError, match="patience is 0"):
        LocalSearch(patience=0)


class Watched(NASBench201Space):
    """Notes every mutation."""

    def __init__(self) -> None:
        super().__init__()
        self.mutations: list[tuple[Architecture, Architecture]] = []

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        child = super().mutate(architecture, generator)
        self.mutations.append((architecture, child))
        return child


def test_the_oldest_dies_and_the_best_of_those_alive_is_parent() -> None:
    strategy, space = RegularizedEvolution(population_size=6, tournament_size=6), Watched()
    found = searched(strategy, 60, count=1, space=space)
    alive, known = list(found[:6]), set(found[:6])
    for parent, child in space.mutations:
        assert parent == max(alive, key=value)
        alive = [*alive[1:], child]  # one that is known costs no query
        known.add(child)
    assert known == set(found)
    assert [strategy.evaluated[key] for key in strategy.alive] == alive
    assert len(space.mutations) > 54  # some were known


def test_tournaments_are_drawn_without_repetition() -> None:
    """A tournament of two among three: the worst never wins, the best in two of three."""
    strategy = RegularizedEvolution(population_size=3, tournament_size=2)
    strategy.start(FIVE)
    ranked = sorted(strategy.ask(3), key=value)
    strategy.tell([(a, Evaluation({"accuracy": float(i)})) for i, a in enumerate(ranked)])
    winners = Counter(strategy.draw_parent() for _ in range(3000))
    assert set(winners) == set(ranked[1:])
    assert abs(winners[ranked[2]] / 3000 - 2 / 3) < 0.04


def test_a_loss_is_minimised_and_equals_keep_the_first() -> None:
    strategy = RandomSearch()
    strategy.start(TWO, objective="loss")
    asked = strategy.ask(4)
    strategy.tell([(a, Evaluation({"loss": v})) for a, v in zip(asked, [2.0, 1.0, 1.0, 3.0], strict=True)])
    assert strategy.best() == asked[1]


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match="population_size is 1"):
        RegularizedEvolution(population_size=1)
    with pytest.raises(ConfigError, match="tournament_size is 9"):
        RegularizedEvolution(population_size=8, tournament_size=9)
    strategy = RandomSearch()
    strategy.start(TWO)
    with pytest.raises(ConfigError, match="Nothing has been evaluated"):
        strategy.best()
    (asked,) = strategy.ask(1)
    with pytest.raises(ConfigError, match=r"\['loss'\], not 'accuracy'"):
        strategy.tell([(asked, Evaluation({"loss": 1.0}))])
    with pytest.raises(TrainingError, match="accuracy nan"):
        strategy.tell([(asked, Evaluation({"accuracy": float("nan")}))])
    state = strategy.state_dict()
    strategy.start(TWO, objective="loss")
    with pytest.raises(CheckpointError, match="'accuracy', this one for 'loss'"):
        strategy.load_state_dict(state)
    assert torch.equal(strategy.state_dict()["generator"], strategy.generator.get_state())
