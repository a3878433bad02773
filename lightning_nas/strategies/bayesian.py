"""Bayesian optimization: a Gaussian process with expected improvement."""

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ArchitectureError
from lightning_nas.predictors.gaussian_process import FeatureTable, Kernel, Posterior, fit_kernel
from lightning_nas.predictors.regressors import Values
from lightning_nas.strategies.base import Strategy


class BayesianOptimization(Strategy):
    def __init__(
        self,
        initial: int = 15,
        refit: int = 5,
        outliers: float = 1.5,
        listed: int = 50_000,
        pool: int = 200,
        parents: int = 10,
        crossovers: int = 100,
    ) -> None:
        self.initial = initial
        self.refit = refit
        self.outliers = outliers
        self.listed = listed
        self.pool = pool
        self.parents = parents
        self.crossovers = crossovers
        self._clear()

    def _clear(self) -> None:
        self.kernel: Kernel | None = None
        self._fitted = 0
        self._all: dict[str, Architecture] = {}
        self._table: FeatureTable | None = None
        self._refused: set[str] = set()

    def start(self, *args: Any, **kwargs: Any) -> None:
        super().start(*args, **kwargs)
        self._clear()

    def ask(self, count: int) -> list[Architecture]:
        if len(self.evaluated) < self.initial:
            return self.sample_unseen(min(count, self.initial - len(self.evaluated)))
        candidates = self._candidates()
        known, others = self._tables(candidates)
        target = self._target()
        if self.kernel is None or len(self.evaluated) >= self._fitted + self.refit:
            self.kernel, self._fitted = fit_kernel(known, target), len(self.evaluated)
        posterior = Posterior(self.kernel, known, target, others)
        asked = []
        left = list(candidates.items())
        best = target.max()
        taken = np.zeros(len(left), bool)
        while len(asked) < count:
            place = self._choose(posterior, best, left, taken)
            if place is None: break
            asked.append(left[place][1])
            posterior.believe(place)
            best = max(best, posterior.mean[place])
        return asked

    def _choose(self, posterior, best, left, taken):
        deviation = np.sqrt(posterior.variance + posterior.noise * getattr(self, "ein", 1))
        z = (posterior.mean - best) / deviation
        gain = deviation * (z * norm.cdf(z) + norm.pdf(z))
        for place in np.lexsort((posterior.mean, gain))[::-1]:
            if taken[place]: continue
            taken[place] = True
            try:
                self.space.check(left[place][1])
                return int(place)
            except ArchitectureError:
                self._refused.add(left[place][0])
        return None

    def _candidates(self):
        if prod(self.space.num_values) <= self.listed:
            if not self._all:
                for choices in product(*map(range, self.space.num_values)):
                    a = Architecture(self.space.spec(), choices)
                    try: self._all.setdefault(self.space.key(a), a)
                    except ArchitectureError: continue
                self._table = FeatureTable.of([self.space.features(a) for a in self._all.values()])
                self._row = {k: i for i, k in enumerate(self._all)}
            found = self._all
        else:
            import torch
            from lightning_nas.strategies.base import Result
            found = {self.space.key(a): a for a in self.sample_unseen(self.pool)}
            ranked = sorted(self.fitness, key=self.fitness.__getitem__, reverse=True)[:self.parents]
            for key in ranked:
                found |= {self.space.key(a): a for a in self.space.neighbours(self.evaluated[key])}
            for _ in range(self.crossovers):
                i, j = torch.randint(len(ranked), (2,), generator=self.generator).tolist()
                a = self.space.crossover(self.evaluated[ranked[i]], self.evaluated[ranked[j]], self.generator)
                found[self.space.key(a)] = a
        return {k: a for k, a in found.items() if k not in self.evaluated and k not in self.failed and k not in self._refused}

    def _tables(self, candidates):
        if self._table is not None:
            return self._table.rows([self._row[k] for k in self.evaluated]), self._table.rows([self._row[k] for k in candidates])
        both = [*self.evaluated.values(), *candidates.values()]
        t = FeatureTable.of([self.space.features(a) for a in both])
        n = len(self.evaluated)
        return t.rows(range(n)), t.rows(range(n, len(both)))

    def _target(self):
        v = np.array(list(self.fitness.values()))
        low, high = np.quantile(v, [0.25, 0.75])
        v = np.maximum(v, low - self.outliers * (high - low))
        s = v.std()
        return (v - v.mean()) / (s if s > 0 else 1.0)
