"""Regularized evolution (Real et al., AAAI 2019)."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError
from lightning_nas.strategies.base import DRAWS, Result, Strategy


class RegularizedEvolution(Strategy):
    """Mutates the winners of tournaments; the oldest member of the population dies, not the worst.

    A child is a uniformly drawn neighbour of its parent. A child that has been evaluated before costs no query and
    enters the population at once with its known fitness. The search ends when many children in a row are known.

    References:
        1. Real, Aggarwal, Huang, Le: Regularized Evolution for Image Classifier Architecture Search, AAAI 2019,
           https://arxiv.org/abs/1802.01548. The paper uses a population of 100 and tournaments of 25 for 20,000
           queries; the defaults here are for a few hundred.

    Args:
        population_size: Number of living architectures, at least 2. The first ones are drawn at random.
        tournament_size: Number of architectures that compete to be a parent, drawn without replacement, from 1 to
            ``population_size``.

    Raises:
        ConfigError: A size is out of its range.

    Example:
        ```yaml
        strategy: {class_path: RegularizedEvolution, init_args: {population_size: 50, tournament_size: 10}}
        ```
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
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.alive.clear()

    def ask(self, count: int) -> list[Architecture]:
        """Propose children of the winners of tournaments, or random architectures until the population is full."""
        missing = self.population_size - len(self.alive)
        if missing > 0:
            return self.sample_unseen(min(count, missing))
        children: dict[str, Architecture] = {}
        failed = 0
        while len(children) < count and failed < DRAWS:
            child = self.space.mutate(self.draw_parent(), self.generator)
            key = self.space.key(child)
            if key in self.evaluated:
                self.alive.append(key)
            failed = failed + 1 if self.seen(child) or key in children else 0
            if not self.seen(child):
                children.setdefault(key, child)
        return list(children.values())

    def draw_parent(self) -> Architecture:
        """The winner of a tournament among random members of the population."""
        drawn = torch.randperm(len(self.alive), generator=self.generator)[: self.tournament_size].tolist()
        return self.evaluated[max((self.alive[i] for i in drawn), key=self.fitness.__getitem__)]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn evaluations; the architectures enter the population, and the oldest leave it."""
        super().tell(results)
        self.alive.extend(self.space.key(architecture) for architecture, _ in results)

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        places = {key: place for place, key in enumerate(self.evaluated)}
        return {**super().state_dict(), "alive": [places[key] for key in self.alive]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        keys = list(self.evaluated)
        self.alive = deque((keys[place] for place in state["alive"]), maxlen=self.population_size)
