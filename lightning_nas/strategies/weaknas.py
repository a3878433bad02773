"""Search with weak predictors (WeakNAS)."""

from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.predictors.regressors import GradientBoosting, Predictor, one_hot
from lightning_nas.strategies.base import Result, Strategy


class WeakPredictors(Strategy):
    """A predictor that is fitted anew to all that is known chooses what is queried next, again and again.

    Some random architectures come first. Then, in every round, the predictor scores a pool of random architectures and
    the neighbours of the best known ones, and some of the highest scored are drawn uniformly. WeakNAS scores all
    architectures of a table instead of a pool; where there is no table, nobody can.

    References:
        1. Wu, Dai, Chen, Chen, Liu, Yu, Wang, Liu, Chen, Yuan: Stronger NAS with Weaker Predictors, NeurIPS 2021,
           https://arxiv.org/abs/2102.10490

    Args:
        predictor: What is fitted; by default gradient boosted trees.
        initial: Random architectures at the start, at least 2 (the paper: 100 in NAS-Bench-101, 10 in NAS-Bench-201).
        top: Highest scored architectures that are drawn from, at least 1 (the paper: 100).
        pool: Random architectures that are scored, drawn once, at least 1.
        parents: Best known architectures whose neighbours are scored, too, at least 0.
        first: What asks first, until it asks for nothing, such as a local search without restarts; its architectures
            count among the initial ones. The paper has none.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        predictor: Predictor | None = None,
        initial: int = 10,
        top: int = 100,
        pool: int = 2000,
        parents: int = 0,
        first: Strategy | None = None,
    ) -> None:
        if initial < 2 or top < 1 or pool < 1 or parents < 0:
            raise ConfigError(
                f"initial is {initial}, top {top}, pool {pool} and parents {parents}; expected are at least 2, 1, 1 "
                "and 0."
            )
        self.predictor = predictor or GradientBoosting()
        self.initial = initial
        self.top = top
        self.pool = pool
        self.parents = parents
        self.first = first
        self._first_asks = first is not None
        self._drawn: dict[str, Architecture] = {}

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        if self.first is not None:
            self.first.start(*args, **kwargs)
        self._first_asks = self.first is not None
        self._pool_seed = derived_seed(self.generator.initial_seed(), "pool")
        self._drawn = {}

    def tell(self, results: Sequence[Result]) -> None:
        """See ``Strategy.tell``."""
        super().tell(results)
        if self.first is not None:
            self.first.tell(results)

    def _pool(self) -> dict[str, Architecture]:
        """Random architectures, the same whenever the search goes on."""
        if not self._drawn:
            generator = torch.Generator().manual_seed(self._pool_seed)
            drawn = [self.space.sample(generator) for _ in range(self.pool)]
            self._drawn = {self.space.key(a): a for a in drawn}
        return self._drawn

    def ask(self, count: int) -> list[Architecture]:
        """Initial ones, then some of the highest scored; see ``Strategy.ask``."""
        if self.first is not None and self._first_asks:
            if asked := self.first.ask(count):
                return asked
            self._first_asks = False
        if len(self.evaluated) < self.initial:
            return self.sample_unseen(min(count, self.initial - len(self.evaluated)))
        candidates = dict(self._pool())
        ranked = sorted(self.evaluated, key=self.fitness.__getitem__, reverse=True)
        for key in ranked[: self.parents]:
            candidates |= {self.space.key(a): a for a in self.space.neighbours(self.evaluated[key])}
        unknown = [a for key, a in candidates.items() if key not in self.evaluated]
        if not unknown:
            return self.sample_unseen(count)
        alphabet = self.space.num_values
        known, others = (
            one_hot([a.choices for a in some], alphabet) for some in (list(self.evaluated.values()), unknown)
        )
        worth = torch.tensor([self.fitness[key] for key in self.evaluated], dtype=torch.float64).numpy()
        seed = derived_seed(self._pool_seed, len(self.evaluated))
        scores = torch.from_numpy(self.predictor.predict(known, worth, others, seed))
        best = scores.argsort(descending=True, stable=True)[: max(self.top, count)]
        drawn = best[torch.randperm(len(best), generator=self.generator)[:count]]
        return [unknown[i] for i in drawn.tolist()]

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        first = None if self.first is None else self.first.state_dict()
        return {**super().state_dict(), "pool_seed": self._pool_seed, "first": first, "first_asks": self._first_asks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self._pool_seed = state["pool_seed"]
        self._first_asks = state["first_asks"]
        if self.first is not None:
            self.first.load_state_dict(state["first"])
        self._drawn = {}
