"""Regularized evolution: who is a parent, and who dies."""

from collections import Counter

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.regularized_evolution import RegularizedEvolution
from tests.strategies.rugged import FIVE, searched, value


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


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="population_size is 1"):
        RegularizedEvolution(population_size=1)
    with pytest.raises(ConfigError, match="tournament_size is 9"):
        RegularizedEvolution(population_size=8, tournament_size=9)
