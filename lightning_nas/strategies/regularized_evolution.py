"""Regularized evolution (Real et al., 2019)."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
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
        population: Architectures that are alive, at least 2; so many are drawn at random first.
        tournament: Those among them that compete to be a parent, drawn without repetition (the paper: 25 of 100).
    """

    def __init__(self, population: int = 50, tournament: int = 10) -> None:
        if population < 2 or not 1 <= tournament <= population:
            raise ConfigError(
                f"population is {population} and tournament {tournament}; they must be at least 2, and from 1 to the "
                "population."
            )
        self.population = population
        self.tournament = tournament
        self.alive: deque[str] = deque(maxlen=population)

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.alive.clear()

    def ask(self, count: int) -> list[Architecture]:
        """Children of tournaments' winners; random architectures until the population is full."""
        missing = self.population - len(self.alive)
        if missing > 0:
            return self.fresh(min(count, missing))
        children: dict[str, Architecture] = {}
        failed = 0
        while len(children) < count and failed < DRAWS:
            child = self.space.mutate(self._parent(), self.generator)
            key = self.space.key(child)
            if key in self.told:
                self.alive.append(key)
            failed = failed + 1 if key in self.told or key in children else 0
            if key not in self.told:
                children.setdefault(key, child)
        return list(children.values())

    def _parent(self) -> Architecture:
        drawn = torch.randperm(len(self.alive), generator=self.generator)[: self.tournament].tolist()
        return self.told[max((self.alive[i] for i in drawn), key=self.fitness.__getitem__)]

    def tell(self, results: Sequence[Result]) -> None:
        """Let architectures into the population, the oldest out; see ``Strategy.tell``."""
        super().tell(results)
        self.alive.extend(self.space.key(architecture) for architecture, _ in results)

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        places = {key: place for place, key in enumerate(self.told)}
        return {**super().state_dict(), "alive": [places[key] for key in self.alive]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        keys = list(self.told)
        self.alive = deque((keys[place] for place in state["alive"]), maxlen=self.population)
