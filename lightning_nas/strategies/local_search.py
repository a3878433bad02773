"""Local search (White et al., UAI 2021)."""

from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.strategies.base import Strategy, sort_by_score


class LocalSearch(Strategy):
    """Moves to better neighbours until there are none, then restarts elsewhere.

    The neighbours of the current architecture are evaluated in random order, or in the order of a zero-cost score. The
    search then moves to the best of them, or with ``first_improvement`` to the first one that is better.

    References:
        1. White, Nolen, Savani: Exploring the Loss Landscape in Neural Architecture Search, UAI 2021,
           https://arxiv.org/abs/2005.02960. The paper starts at random, evaluates all neighbours in random order and
           moves to the best: the defaults here.

    Args:
        from_largest: Whether the first start is the architecture with the most parameters instead of a random one.
        restarts: Whether to restart at random where no neighbour is better; otherwise the search ends there.
        first_improvement: Whether to move to the first better neighbour instead of the best one. Neighbours are then
            asked for one at a time.
        order: Evaluator that sorts the neighbours by its single objective, such as ``ZeroCost``; null for random order.
        patience: Number of neighbours that are evaluated per architecture, at least 1; null for all.

    Raises:
        ConfigError: ``patience`` is less than 1.

    Example:
        ```yaml
        strategy: {class_path: LocalSearch, init_args: {from_largest: true, first_improvement: true, order: ZeroCost}}
        ```
    """

    def __init__(
        self,
        from_largest: bool = False,
        *,
        restarts: bool = True,
        first_improvement: bool = False,
        order: Evaluator | None = None,
        patience: int | None = None,
    ) -> None:
        at_least(1, patience=patience)
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
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self._clear()

    def _value(self, architecture: Architecture) -> float | None:
        return self.fitness.get(self.space.key(architecture))

    def ask(self, count: int) -> list[Architecture]:
        """Propose neighbours of the current architecture; see ``Strategy.ask``."""
        while True:
            if self.current is None and not self._restart():
                return []
            assert self.current is not None
            if self._value(self.current) is None and self.seen(self.current):  # its evaluation failed
                self.current = None
                continue
            if self._value(self.current) is None:
                return [self.current]
            unknown = [a for a in self._near if not self.seen(a)]
            better = self._better()
            if better is not None and (self.first_improvement or not unknown):
                self._move(better)
            elif unknown:
                return unknown[: 1 if self.first_improvement else count]
            else:
                self.current = None

    def _restart(self) -> bool:
        """Move to a new start; False where the search is over."""
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
            near = sort_by_score(near, self.order)
        self.current, self._near = architecture, near[: self.patience]

    def _better(self) -> Architecture | None:
        """The best evaluated neighbour that is better than the current architecture, or the first such neighbour."""
        assert self.current is not None
        here = self.fitness[self.space.key(self.current)]
        known = [(value, a) for a in self._near if (value := self._value(a)) is not None and value > here]
        if not known:
            return None
        return known[0][1] if self.first_improvement else max(known, key=lambda pair: pair[0])[1]

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        current = None if self.current is None else list(self.current.choices)
        near = [list(a.choices) for a in self._near]
        return {**super().state_dict(), "current": current, "near": near, "started": self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        current = state["current"]
        self.current = None if current is None else self.space.architecture(current)
        self._near = [self.space.architecture(choices) for choices in state["near"]]
        self._started = state["started"]
