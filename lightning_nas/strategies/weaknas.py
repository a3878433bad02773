"""Search with weak predictors: WeakNAS (Wu et al., NeurIPS 2021)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ArchitectureError
from lightning_nas.predictors.regressors import GradientBoosting, Predictor, one_hot
from lightning_nas.strategies.base import Result, Strategy


class WeakPredictors(Strategy):
    """Fits a predictor to all known evaluations, again and again, and evaluates architectures that it scores highly.

    The first architectures are random. In every later round the predictor is fitted anew and scores all architectures
    of the space, as in WeakNAS; what is evaluated is drawn uniformly from those with the highest scores. In a space
    that cannot be listed, it scores a pool of random architectures together with the neighbours of the best known ones.
    The predictor sees canonical choices, so that it scores a network alike in whatever form it is written.

    References:
        1. Wu, Dai, Chen, Chen, Liu, Yu, Wang, Liu, Chen, Yuan: Stronger NAS with Weaker Predictors, NeurIPS 2021,
           https://arxiv.org/abs/2102.10490

    Args:
        predictor: The predictor; by default gradient-boosted trees.
        initial: Number of random architectures at the start, at least 2. The paper uses 100 in NAS-Bench-101 and 10 in
            NAS-Bench-201.
        top: Number of architectures with the highest scores that are drawn from, at least 1; the paper uses 100.
        pool: Number of random architectures that are scored, at least 1. They are drawn once per search. Null scores
            all architectures of the space (see ``SearchSpace.listing``), as in the paper; the 423,624 of NAS-Bench-101
            take some seconds per round.
        parents: Number of best known architectures whose neighbours are scored as well, at least 0.
        first: Strategy that asks before the predictor does, until it asks for nothing, such as a local search without
            restarts. Its architectures count towards ``initial``. None by default, as in the paper.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: WeakPredictors, init_args: {predictor: RandomForest, initial: 20, parents: 5}}
        ```
    """

    def __init__(
        self,
        predictor: Predictor | None = None,
        *,
        initial: int = 10,
        top: int = 100,
        pool: int | None = 2000,
        parents: int = 0,
        first: Strategy | None = None,
    ) -> None:
        at_least(2, initial=initial)
        at_least(1, top=top, pool=pool)
        at_least(0, parents=parents)
        self.predictor = predictor or GradientBoosting()
        self.initial = initial
        self.top = top
        self.pool = pool
        self.parents = parents
        self.first = first
        self._first_asks = first is not None
        self._listed: Any = None  # choices of all architectures
        self._clear()

    def _clear(self) -> None:
        self._drawn: dict[str, Architecture] = {}
        self._open: Any = None  # which of them are neither known nor refused
        self._closed: set[str] = set()  # keys of the known ones among them

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        if self.first is not None:
            self.first.start(*args, **kwargs)
        self._first_asks = self.first is not None
        self._pool_seed = derived_seed(self.generator.initial_seed(), "pool")
        self._listed = self.space.listing() if self.pool is None else None
        self._clear()

    def tell(self, results: Sequence[Result]) -> None:
        """Learn evaluations; see ``Strategy.tell``."""
        super().tell(results)
        if self.first is not None:
            self.first.tell(results)

    def tell_failed(self, architectures: Sequence[Architecture]) -> None:
        """Learn that evaluations failed; see ``Strategy.tell_failed``."""
        super().tell_failed(architectures)
        if self.first is not None:
            self.first.tell_failed(architectures)

    def candidates(self) -> dict[str, Architecture]:
        """The pool of random architectures by their keys, which is the same after a search is resumed."""
        if not self._drawn and self.pool is not None:
            generator = torch.Generator().manual_seed(self._pool_seed)
            drawn = [self.space.sample(generator) for _ in range(self.pool)]
            self._drawn = {self.space.key(a): a for a in drawn}
        return self._drawn

    def ask(self, count: int) -> list[Architecture]:
        """Propose initial architectures, then some of those with the highest scores; see ``Strategy.ask``."""
        if self.first is not None and self._first_asks:
            if asked := self.first.ask(count):
                return asked
            self._first_asks = False
        if len(self.evaluated) < self.initial:
            return self.sample_unseen(min(count, self.initial - len(self.evaluated)))
        drawn = None if self.pool is None else self._unknown_of_pool()
        places = self._unknown_of_all() if drawn is None else []
        choices = self._listed[places] if drawn is None else [self.space.canonical(a).choices for a in drawn]
        if not len(choices):
            return self.sample_unseen(count)
        known = [self.space.canonical(a).choices for a in self.evaluated.values()]
        features = (one_hot(some, self.space.num_values) for some in (known, choices))
        fitness = np.array([self.fitness[key] for key in self.evaluated])
        seed = derived_seed(self._pool_seed, len(self.evaluated))
        scores = torch.from_numpy(self.predictor.predict(next(features), fitness, next(features), seed))
        order, most = scores.argsort(descending=True, stable=True), max(self.top, count)
        if drawn is None:
            best = self._satisfying(places[order.numpy()], most)
        else:
            best = [drawn[i] for i in order[:most].tolist()]
        return [best[i] for i in torch.randperm(len(best), generator=self.generator)[:count].tolist()]

    def _unknown_of_pool(self) -> list[Architecture]:
        """The unknown architectures of the pool, and those near the best known ones."""
        candidates = dict(self.candidates())
        for parent in self.leaders(self.parents):
            candidates |= {self.space.key(a): a for a in self.space.neighbours(parent)}
        return [a for key, a in candidates.items() if key not in self.evaluated and key not in self.failed]

    def _unknown_of_all(self) -> Any:
        """Places of all unknown architectures, except for those that were found to violate a constraint."""
        if self._open is None:
            self._open = np.ones(len(self._listed), bool)
        for key, architecture in {**self.evaluated, **self.failed}.items():
            if key not in self._closed:
                self._closed.add(key)
                choices, places = self.space.canonical(architecture).choices, np.flatnonzero(self._open)
                self._open[places[(self._listed[places] == choices).all(1)]] = False
        return np.flatnonzero(self._open)

    def _satisfying(self, places: Any, count: int) -> list[Architecture]:
        """The first architectures of some places that do not turn out to violate a constraint."""
        found: list[Architecture] = []
        for place in places.tolist():
            architecture = Architecture(self.space.spec(), tuple(self._listed[place].tolist()))
            try:
                self.space.check(architecture)
            except ArchitectureError:
                self._open[place] = False
            else:
                found.append(architecture)
            if len(found) == count:
                break
        return found

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        first = None if self.first is None else self.first.state_dict()
        return {**super().state_dict(), "pool_seed": self._pool_seed, "first": first, "first_asks": self._first_asks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self._pool_seed = state["pool_seed"]
        self._first_asks = state["first_asks"]
        if self.first is not None:
            self.first.load_state_dict(state["first"])
        self._clear()
