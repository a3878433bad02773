"""Regularized evolution (Real et al., 2019)."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError
from lightning_nas.strategies.base import DRAWS, Result, Strategy


class RegularizedEvolution(Strategy):
    """Mutates the winners of tournaments; the oldest of the population dies, not the worst.

    A child is a uniformly drawn neighbour of its parent. One that is known already costs no query, so it enters the
    population at once with the fitness that it has. The search is over when many children in a row are known.

    References:
        1. Real, Aggarwal, Huang, Le: Regularized Evolution for Image Classifier Architecture Search, AAAI 2019,
           https://arxiv.org/abs/1802.01548

    Args:
        population_size: Architectures that are alive, at least 2; so many are drawn at random first.
        tournament_size: Those among them that compete to be a parent, drawn without repetition (the paper: 25 of 100).
    """

    def __init__(self, population_size: int = 50, tournament_size: int = 10) -> None:
        at_least(2, population_size=population_size)
        at_least(1, tournament_size=tournament_size)
        if tournament_size > population_size:
            raise ConfigError(
                f"tournament_size is {tournament_size}; it must be at most population_size, {population_size}."
            )
        self.population_size = population_size
        self.tournament_size = tournament_size
        self.alive: deque[str] = deque(maxlen=population_size)

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.alive.clear()

    def ask(self, count: int) -> list[Architecture]:
        """Children of tournaments' winners; random architectures until the population is full."""
        missing = self.population_size - len(self.alive)
        if missing > 0:
            return self.sample_unseen(min(count, missing))
        children: dict[str, Architecture] = {}
        failed = 0
        while len(children) < count and failed < DRAWS:
            child = self.space.mutate(self._parent(), self.generator)
            key = self.space.key(child)
            if key in self.evaluated:
                self.alive.append(key)
            failed = failed + 1 if key in self.evaluated or key in children else 0
            if key not in self.evaluated:
                children.setdefault(key, child)
        return list(children.values())

    def _parent(self) -> Architecture:
        drawn = torch.randperm(len(self.alive), generator=self.generator)[: self.tournament_size].tolist()
        return self.evaluated[max((self.alive[i] for i in drawn), key=self.fitness.__getitem__)]

    def tell(self, results: Sequence[Result]) -> None:
        """Let architectures into the population, the oldest out; see ``Strategy.tell``."""
        super().tell(results)
        self.alive.extend(self.space.key(architecture) for architecture, _ in results)

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        places = {key: place for place, key in enumerate(self.evaluated)}
        return {**super().state_dict(), "alive": [places[key] for key in self.alive]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        keys = list(self.evaluated)
        self.alive = deque((keys[place] for place in state["alive"]), maxlen=self.population_size)
