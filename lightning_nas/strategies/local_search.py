"""Local search (White et al., 2021)."""

from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.strategies.base import Strategy, ordered


class LocalSearch(Strategy):
    """Moves to better neighbours until there is none, then starts again elsewhere.

    Neighbours are looked at in random order, or in that of a score which costs no query. With ``first_improvement`` one
    is asked for at a time, and the first better one is taken, otherwise the best of all.

    References:
        1. White, Nolen, Savani: Exploring the Loss Landscape in Neural Architecture Search, UAI 2021,
           https://arxiv.org/abs/2005.02960

    Args:
        from_largest: Whether the first start is the architecture with most parameters, not a random one.
        restarts: Whether to start again, at random, where no neighbour is better; otherwise the search ends there.
        first_improvement: Which better neighbour to move to.
        order: What scores the neighbours, such as ``SynFlow``, by its one objective; null for random order. The paper
            has none.
        patience: Neighbours that are looked at, at least 1; all if null, as in the paper.

    Raises:
        ConfigError: ``patience`` is below 1.
    """

    def __init__(
        self,
        from_largest: bool = False,
        restarts: bool = True,
        first_improvement: bool = False,
        order: Evaluator | None = None,
        patience: int | None = None,
    ) -> None:
        if patience is not None and patience < 1:
            raise ConfigError(f"patience is {patience}; it must be at least 1 neighbour, or null for all.")
        self.from_largest = from_largest
        self.restarts = restarts
        self.first_improvement = first_improvement
        self.order = order
        self.patience = patience
        self._clear()

    def _clear(self) -> None:
        self.current: Architecture | None = None
        self._near: list[Architecture] = []
        self._started = False

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self._clear()

    def _value(self, architecture: Architecture) -> float | None:
        return self.fitness.get(self.space.key(architecture))

    def ask(self, count: int) -> list[Architecture]:
        """The next neighbours of where the search is; see ``Strategy.ask``."""
        while True:
            if self.current is None and not self._restart():
                return []
            assert self.current is not None
            if self._value(self.current) is None:
                return [self.current]
            unknown = [a for a in self._near if self._value(a) is None]
            better = self._better()
            if better is not None and (self.first_improvement or not unknown):
                self._move(better)
            elif unknown:
                return unknown[: 1 if self.first_improvement else count]
            else:
                self.current = None

    def _restart(self) -> bool:
        """Begin elsewhere; False where the search is over."""
        if self._started and not self.restarts:
            return False
        first = [self.space.largest()] if self.from_largest and not self._started else self.sample_unseen(1)
        self._started = True
        if first:
            self._move(first[0])
        return bool(first)

    def _move(self, architecture: Architecture) -> None:
        others = {self.space.key(a): a for a in self.space.neighbours(architecture)}
        others.pop(self.space.key(architecture), None)
        near = list(others.values())
        near = [near[i] for i in torch.randperm(len(near), generator=self.generator).tolist()]
        if self.order is not None:
            near = ordered(near, self.order)
        self.current, self._near = architecture, near[: self.patience]

    def _better(self) -> Architecture | None:
        """The best known neighbour, or the first that is better; None where none is."""
        assert self.current is not None
        here = self.fitness[self.space.key(self.current)]
        known = [(value, a) for a in self._near if (value := self._value(a)) is not None and value > here]
        if not known:
            return None
        return known[0][1] if self.first_improvement else max(known, key=lambda pair: pair[0])[1]

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        current = None if self.current is None else list(self.current.choices)
        near = [list(a.choices) for a in self._near]
        return {**super().state_dict(), "current": current, "near": near, "started": self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        current = state["current"]
        self.current = None if current is None else self.space.architecture(current)
        self._near = [self.space.architecture(choices) for choices in state["near"]]
        self._started = state["started"]
