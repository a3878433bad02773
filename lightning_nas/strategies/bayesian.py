"""Bayesian optimization: a Gaussian process with expected improvement."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, integer_at_least
from lightning_nas.errors import ArchitectureError
from lightning_nas.predictors.feature_table import FeatureTable, check_groups
from lightning_nas.predictors.gaussian_process import Kernel, Posterior, fit_kernel
from lightning_nas.predictors.regressors import Values
from lightning_nas.strategies.base import Strategy

Candidates = dict[str, Architecture]
"""Architectures by their keys."""


class BayesianOptimization(Strategy):
    """Evaluates the architecture with the largest expected improvement over the best one, by a Gaussian process.

    The first architectures are random. Then a Gaussian process is fitted to all known evaluations; its kernel is
    ``exp(-sum of weight x L1 distance)`` over the groups of ``SearchSpace.features``, with weights and noise by
    marginal likelihood. Candidates are all architectures of the space that are not known yet, where it can be listed,
    otherwise a pool that is drawn anew for every proposal: random architectures, all neighbours of the best known ones,
    and their crossovers. Best results come with one proposal at a time (``generation_size: 1``). Of several at once,
    each after the first assumes that those before it turn out as expected.

    The expected improvement is that of the evaluation, noise included, and not that of the process without noise: an
    architecture with the same features as a good one may well be better. Performance far below the others says little
    about the best and is raised before the fit.

    References:
        1. Jones, Schonlau, Welch: Efficient Global Optimization of Expensive Black-Box Functions, Journal of Global
           Optimization 13, 1998, https://doi.org/10.1023/A:1008306431147
        2. Ginsbourger, Le Riche, Carraro: Kriging Is Well-Suited to Parallelize Optimization, 2010,
           https://doi.org/10.1007/978-3-642-10701-6_6. The proposals of a batch.
        3. White, Neiswanger, Savani: BANANAS: Bayesian Optimization with Neural Architectures for Neural Architecture
           Search, AAAI 2021, https://arxiv.org/abs/1910.11858. Paths through the cell as features.

    Args:
        initial: Number of random architectures at the start, at least 2.
        refit: Number of evaluations after which weights and noise are fitted again, at least 1.
        whisker: Performance below the lower quartile by more than this number of interquartile ranges is raised to that
            limit, at least 0. Box plots have 1.5; with less, the differences among the best weigh more. Null raises
            nothing.
        groups: Names of the groups of features to compare architectures by; by default all that the space has.
        weight_per_group: Whether every group of features has a weight of its own in the kernel. False gives all of
            them the same weight, which can be fitted to fewer evaluations but depends on the units of the features.
        noisy: Whether the noise belongs into the variance of the expected improvement. Set it to false for evaluations
            without noise whose features tell all architectures apart.
        max_listed: Largest number of combinations of choices, valid or not, with which all architectures of the space
            are candidates, at least 0. A proposal takes time in proportion.
        samples: Number of random architectures in a pool, at least 1.
        parents: Number of best known architectures whose neighbours and crossovers are in a pool, at least 1.
        crossovers: Number of crossovers in a pool, at least 0.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: BayesianOptimization, init_args: {initial: 15, refit: 5}}
        ```
    """

    def __init__(
        self,
        initial: int = 15,
        *,
        refit: int = 5,
        whisker: float | None = 0.5,
        groups: Sequence[str] | None = None,
        weight_per_group: bool = True,
        noisy: bool = True,
        max_listed: int = 50_000,
        samples: int = 50,
        parents: int = 10,
        crossovers: int = 100,
    ) -> None:
        integer_at_least(2, initial=initial)
        integer_at_least(1, refit=refit, samples=samples, parents=parents)
        integer_at_least(0, max_listed=max_listed, crossovers=crossovers)
        at_least(0, whisker=whisker)
        self.initial = initial
        self.refit = refit
        self.whisker = whisker
        self.groups = groups
        self.weight_per_group = weight_per_group
        self.noisy = noisy
        self.max_listed = max_listed
        self.samples = samples
        self.parents = parents
        self.crossovers = crossovers
        self._clear()

    def _clear(self) -> None:
        self.kernel: Kernel | None = None
        self._fitted = 0  # number of evaluations at the last fit
        self._listed: Candidates = {}
        self._table: FeatureTable | None = None  # of all that are listed
        self._refused: set[str] = set()  # listed, but not in the space

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new search; see ``Strategy.start``.

        Raises:
            ConfigError: The space has no such group of features.
        """
        super().start(*args, **kwargs)
        check_groups(self.space, self.groups)
        self._clear()

    def ask(self, count: int) -> list[Architecture]:
        """Propose initial architectures, then those with the largest expected improvement; see ``Strategy.ask``."""
        if len(self.evaluated) < self.initial:
            return self.sample_unseen(min(count, self.initial - len(self.evaluated)))
        listable = prod(self.space.num_values) <= self.max_listed
        drawn = self._list() if listable else self._draw_pool()
        candidates = {
            key: architecture
            for key, architecture in drawn.items()
            if not (key in self.evaluated or key in self.failed or key in self._refused)
        }
        if not candidates:
            return []
        known, others = self._feature_tables(candidates)
        target = self._target()
        if self.kernel is None or len(self.evaluated) >= self._fitted + self.refit:
            self.kernel, self._fitted = fit_kernel(known, target), len(self.evaluated)
        posterior = Posterior(self.kernel, known, target, others)
        return self._best_of(list(candidates.items()), posterior, float(target.max()), count)

    def _list(self) -> Candidates:
        """All architectures of the space, except that constraints are not checked yet: a cost may take a measurement.

        They and their features are kept.
        """
        if not self._listed:
            spec = self.space.spec()
            for choices in product(*map(range, self.space.num_values)):
                architecture = Architecture(spec, choices)
                try:
                    self._listed.setdefault(self.space.key(architecture), architecture)
                except ArchitectureError:
                    continue
            self._table = self._features_of(self._listed)
        return self._listed

    def _draw_pool(self) -> Candidates:
        """Random architectures, and the neighbours and crossovers of the best known ones."""
        best = self.leaders(self.parents)
        pool = self.sample_unseen(self.samples)
        for parent in best:
            pool += self.space.neighbours(parent)
        pairs = torch.randint(len(best), (self.crossovers, 2), generator=self.generator).tolist()
        pool += [self.space.crossover(best[i], best[j], self.generator) for i, j in pairs]
        return {self.space.key(architecture): architecture for architecture in pool}

    def _feature_tables(self, candidates: Candidates) -> tuple[FeatureTable, FeatureTable]:
        """Features of the known architectures and of the candidates."""
        table = self._table or self._features_of({**self.evaluated, **candidates})
        return table.rows(self.evaluated), table.rows(candidates)

    def _features_of(self, architectures: Candidates) -> FeatureTable:
        """Features of architectures in the groups that the kernel weighs."""
        table = FeatureTable.of(architectures, self.space.features, self.groups)
        return table if self.weight_per_group else replace(table, groups=("all",) * len(table.groups))

    def _target(self) -> Values:
        """The standardized performance of the known architectures, without outliers below."""
        values = np.array([self.fitness[key] for key in self.evaluated])
        lower, upper = np.quantile(values, [0.25, 0.75])
        raised = values if self.whisker is None else np.maximum(values, lower - self.whisker * (upper - lower))
        deviation = raised.std()
        target: Values = (raised - raised.mean()) / (deviation if deviation > 0 else 1.0)
        return target

    def _best_of(
        self, candidates: Sequence[tuple[str, Architecture]], posterior: Posterior, best: float, count: int
    ) -> list[Architecture]:
        """The candidates with the largest expected improvement, one after the other."""
        noise = posterior.noise if self.noisy else 1e-12  # a variance above 0
        asked: list[Architecture] = []
        tried = np.zeros(len(candidates), bool)
        while len(asked) < count:
            gain = expected_improvement(posterior.mean, posterior.variance + noise, best)
            order = np.lexsort((posterior.mean, gain))[::-1]  # far below the best, the improvement underflows
            for place in order[~tried[order]].tolist():
                tried[place] = True
                key, architecture = candidates[place]
                if self._satisfies(architecture):
                    break
                self._refused.add(key)
            else:
                return asked
            asked.append(architecture)
            posterior.believe(place)
            best = max(best, float(posterior.mean[place]))
        return asked

    def _satisfies(self, architecture: Architecture) -> bool:
        """Whether an architecture satisfies the constraints of the space."""
        try:
            self.space.check(architecture)
        except ArchitectureError:
            return False
        return True

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        kernel = None if self.kernel is None else {"weights": dict(self.kernel.weights), "noise": self.kernel.noise}
        return {**super().state_dict(), "kernel": kernel, "fitted": self._fitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self._clear()
        self.kernel = None if state["kernel"] is None else Kernel(**state["kernel"])
        self._fitted = state["fitted"]


def expected_improvement(mean: Values, variance: Values, best: float) -> Values:
    """Return the mean of ``max(value - best, 0)`` over normally distributed values.

    Args:
        mean: Means of the values.
        variance: Their variances, greater than 0.
        best: The value to improve on.
    """
    from scipy.stats import norm  # slow to import

    deviation = np.sqrt(variance)
    ratio = (mean - best) / deviation
    gain: Values = deviation * (ratio * norm.cdf(ratio) + norm.pdf(ratio))
    return gain
