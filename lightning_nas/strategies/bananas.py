"""An ensemble of predictors with independent Thompson sampling: BANANAS (White et al., AAAI 2021)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import integer_at_least
from lightning_nas.predictors.feature_table import FeatureTable, check_groups
from lightning_nas.predictors.regressors import MLP, Predictor
from lightning_nas.strategies.base import Strategy


class BANANAS(Strategy):
    """Evaluates those mutants of the best architectures that do best in one draw from an ensemble of predictors.

    The first architectures are random. In every later round, several predictors that differ in their seeds are fitted
    to all known evaluations. The candidates are unknown neighbours of the best known architectures. Each of them gets
    a score, drawn from the normal distribution with the mean and the standard deviation of its predictions
    (independent Thompson sampling), and those with the highest scores are evaluated. Departures from the paper:

    - The networks of the paper have ten layers of 20 units and are trained by Adam on the absolute percentage error.
      By default they have two such layers here, and L-BFGS minimizes the squared error, which takes a fraction of a
      second.
    - Features are those of the space, such as the number of paths by the operations along them, which skip connections
      are left out of. The paper says of every possible path of operations whether it is there.

    References:
        1. White, Neiswanger, Savani: BANANAS: Bayesian Optimization with Neural Architectures for Neural Architecture
           Search, AAAI 2021, https://arxiv.org/abs/1910.11858

    Args:
        predictor: The kind of predictor; by default ``MLP`` with two layers of 20 units and 100 iterations.
        predictors: Number of predictors in the ensemble, at least 2.
        initial: Number of random architectures at the start, at least 2.
        candidates: Number of mutants that are scored, at least 1.
        parents: Number of best known architectures that are mutated, at least 1.
        groups: Names of the groups of ``SearchSpace.features`` that the predictors see, such as ``[paths]`` for cells,
            as in the paper; by default all that the space has.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: BANANAS, init_args: {initial: 10, groups: [paths]}}
        ```
    """

    def __init__(
        self,
        predictor: Predictor | None = None,
        *,
        predictors: int = 5,
        initial: int = 10,
        candidates: int = 100,
        parents: int = 10,
        groups: Sequence[str] | None = None,
    ) -> None:
        integer_at_least(2, predictors=predictors, initial=initial)
        integer_at_least(1, candidates=candidates, parents=parents)
        self.predictor = predictor or MLP((20, 20), 100)
        self.predictors = predictors
        self.initial = initial
        self.candidates = candidates
        self.parents = parents
        self.groups = groups

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new search; see ``Strategy.start``.

        Raises:
            ConfigError: The space has no such group of features.
        """
        super().start(*args, **kwargs)
        check_groups(self.space, self.groups)

    def ask(self, count: int) -> list[Architecture]:
        """Propose initial architectures, then the mutants with the highest scores; see ``Strategy.ask``."""
        if len(self.evaluated) < self.initial:
            return self.sample_unseen(min(count, self.initial - len(self.evaluated)))
        mutants = self._mutants(max(self.candidates, count))
        if not mutants:
            return self.sample_unseen(count)
        table = FeatureTable.of({**self.evaluated, **mutants}, self.space.features, self.groups)
        known, others = table.rows(self.evaluated).values, table.rows(mutants).values
        fitness = np.array(list(self.fitness.values()))
        seeds = torch.randint(2**31, (self.predictors,), generator=self.generator).tolist()
        predicted = np.stack([self.predictor.predict(known, fitness, others, seed) for seed in seeds])
        noise = torch.randn(len(mutants), generator=self.generator, dtype=torch.float64).numpy()
        scores = predicted.mean(0) + predicted.std(0, ddof=1) * noise
        best = np.argsort(-scores, kind="stable")[:count]
        architectures = list(mutants.values())
        return [architectures[place] for place in best.tolist()]

    def _mutants(self, count: int) -> dict[str, Architecture]:
        """Random ones of the unknown neighbours of the best known architectures, by their keys."""
        best = self.leaders(self.parents)
        near = {self.space.key(mutant): mutant for parent in best for mutant in self.space.neighbours(parent)}
        unknown = [key for key in near if key not in self.evaluated and key not in self.failed]
        drawn = torch.randperm(len(unknown), generator=self.generator)[:count].tolist()
        return {unknown[place]: near[unknown[place]] for place in drawn}
