"""Search by clusters of alike architectures (DC-NAS)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.metrics.ranking import kendall_tau
from lightning_nas.predictors.regressors import one_hot
from lightning_nas.strategies.base import Result, Strategy


class DCNAS(Strategy):
    """Clusters random architectures, and refines the winner of every cluster by its neighbours: a reconstruction.

    The paper clusters architectures by how a short training changes them, compares those of a cluster after short
    trainings, because only alike ones compare so early, and the winners of all clusters after long ones. This is made
    from its abstract for a single evaluator, without early and late results. Random architectures are evaluated and
    clustered (k-means) by the features that the evaluator gives, or by their choices, one-hot, where it gives none, as
    tables do. Then neighbours of a cluster's winner are asked for, in random order, some a turn. Every cluster has a
    turn, the best winner's first; afterwards the one whose winner gained most in its last turn, of equals the one with
    the best winner. What is new joins the cluster whose turn it is, and is its winner if it is better. Where no winner
    has unknown neighbours, random architectures take their place.

    References:
        1. Wang, Xu, Tao: DC-NAS: Divide-and-Conquer Neural Architecture Search, 2020, https://arxiv.org/abs/2005.14456

    Args:
        samples: Random architectures, at least 1.
        clusters: How many, from 1 to the samples; fewer where there are fewer different features.
        turn: Neighbours that are asked for before clusters are compared anew, at least 1.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(self, samples: int = 50, clusters: int = 5, turn: int = 5) -> None:
        if not 1 <= clusters <= samples or turn < 1:
            raise ConfigError(
                f"samples is {samples}, clusters {clusters} and turn {turn}; expected are at least as many samples as "
                "clusters, and at least 1 of each."
            )
        self.samples = samples
        self.clusters = clusters
        self.turn = turn

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.cluster: dict[str, int] = {}
        self._features: dict[str, list[float]] = {}
        self._near: list[list[Architecture]] = []
        self._winners: list[str] = []
        self._gains: list[float] = []
        self._current = 0
        self._left = 0

    def ask(self, count: int) -> list[Architecture]:
        """Samples, then neighbours of a cluster's winner; see ``Strategy.ask``."""
        if not self._winners:
            if len(self.evaluated) < self.samples and (
                asked := self.sample_unseen(min(count, self.samples - len(self.evaluated)))
            ):
                return asked
            if not self.evaluated:
                return []
            self._divide()
        if self._left == 0 or not self._unknown(self._current):
            self._choose()
        near = self._unknown(self._current)[: min(count, self._left)]
        return near or self.sample_unseen(count)

    def _divide(self) -> None:
        """Cluster all that is known."""
        keys = list(self.evaluated)
        given = len(self._features)
        if given:
            lengths = {len(values) for values in self._features.values()}
            if given != len(keys) or len(lengths) != 1:
                raise ConfigError(
                    f"The evaluator gave features for {given} of {len(keys)} architectures, with {sorted(lengths)} "
                    "numbers; it must give as many numbers for each, or none for any. Use another evaluator."
                )
            features = np.asarray([self._features[key] for key in keys], np.float64)
        else:
            features = one_hot([self.evaluated[key].choices for key in keys], self.space.num_values)
        seed = int(torch.randint(2**32, (1,), generator=self.generator))
        labels = clustered(features, min(self.clusters, len(keys)), seed)
        self.cluster = dict(zip(keys, labels, strict=True))
        self._features = {}
        self._near = [[] for _ in range(max(labels) + 1)]
        self._winners = [""] * len(self._near)
        self._gains = [float("inf")] * len(self._near)  # all have a turn
        for key in keys:
            self._compare(key)

    def _compare(self, key: str) -> None:
        """Let an architecture win its cluster if it is the best there."""
        place = self.cluster[key]
        winner = self._winners[place]
        if winner and self.fitness[key] <= self.fitness[winner]:
            return
        if winner and place == self._current:
            self._gains[place] += self.fitness[key] - self.fitness[winner]
        self._winners[place] = key
        others = {self.space.key(a): a for a in self.space.neighbours(self.evaluated[key])}
        near = list(others.values())
        self._near[place] = [near[i] for i in torch.randperm(len(near), generator=self.generator).tolist()]

    def _unknown(self, place: int) -> list[Architecture]:
        return [a for a in self._near[place] if self.space.key(a) not in self.evaluated]

    def _choose(self) -> None:
        """The next turn: the cluster that gained most in its last one, of those with unknown neighbours."""
        places = [place for place in range(len(self._near)) if self._unknown(place)]
        if places:
            self._current = max(places, key=lambda i: (self._gains[i], self.fitness[self._winners[i]]))
            self._gains[self._current] = 0.0
            self._left = self.turn

    def tell(self, results: Sequence[Result]) -> None:
        """Let architectures into the clusters that asked for them; see ``Strategy.tell``."""
        new = [pair for pair in results if self.space.key(pair[0]) not in self.evaluated]
        super().tell(results)
        for architecture, evaluation in new:
            key = self.space.key(architecture)
            if self._winners:
                self.cluster[key] = self._current
                self._left = max(0, self._left - 1)
                self._compare(key)
            elif evaluation.features is not None:
                self._features[key] = evaluation.features.flatten().tolist()

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        places = {key: place for place, key in enumerate(self.evaluated)}
        return {
            **super().state_dict(),
            "features": {places[key]: values for key, values in self._features.items()},
            "cluster": {places[key]: place for key, place in self.cluster.items()},
            "near": [[list(a.choices) for a in near] for near in self._near],
            "winners": [places[key] for key in self._winners],
            "gains": list(self._gains),
            "turn": [self._current, self._left],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        keys = list(self.evaluated)
        self._features = {keys[place]: values for place, values in state["features"].items()}
        self.cluster = {keys[place]: cluster for place, cluster in state["cluster"].items()}
        self._near = [[self.space.architecture(choices) for choices in near] for near in state["near"]]
        self._winners = [keys[place] for place in state["winners"]]
        self._gains = list(state["gains"])
        self._current, self._left = state["turn"]


def clustered(features: NDArray[np.float64], clusters: int, seed: int) -> list[int]:
    """The cluster of every architecture, by k-means.

    Args:
        features: ``(architectures, features)``.
        clusters: How many, at least 1; fewer where there are fewer different features.
        seed: Of the starts of k-means.

    Returns:
        Numbers from 0 on; each cluster has somebody.

    Raises:
        ConfigError: ``clusters`` is below 1 or above the number of architectures.
        DataError: The features are no matrix, or not finite.
    """
    from sklearn.cluster import KMeans

    if features.ndim != 2 or not np.isfinite(features).all():
        raise DataError(
            f"Features of shape {features.shape} were given, {int((~np.isfinite(features)).sum())} of them not finite; "
            "expected are finite numbers, (architectures, features)."
        )
    if not 1 <= clusters <= len(features):
        raise ConfigError(
            f"clusters is {clusters} for {len(features)} architectures; it must be from 1 to their number."
        )
    different = min(clusters, len(np.unique(features, axis=0)))
    labels = KMeans(different, n_init=10, random_state=seed).fit_predict(features)
    return [int(label) for label in np.unique(labels, return_inverse=True)[1]]


def cluster_correlations(
    features: NDArray[np.float64], early: Sequence[float], final: Sequence[float], clusters: int, seed: int = 0
) -> tuple[float, float]:
    """Kendall's tau of early with final results: of all architectures, and of those of a cluster.

    That the second is higher is what DC-NAS rests on.

    Args:
        features: ``(architectures, features)``.
        early: Results of short trainings, higher is better.
        final: Results of long ones, likewise.
        clusters: How many, from 1 to the number of architectures.
        seed: Of the starts of k-means.

    Returns:
        Of all, and the mean over the clusters that have an order, those with two different results or more both early
        and final; nan where there is none.

    Raises:
        ConfigError: ``clusters`` is out of its range.
        DataError: Features or results are not finite, or differ in number.
    """
    overall = kendall_tau(early, final)
    labels = np.asarray(clustered(features, clusters, seed))
    if len(labels) != len(early):
        raise DataError(f"There are features of {len(labels)} architectures and results of {len(early)}; give as many.")
    within = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label).tolist()
        if len(members) > 1:
            within.append(kendall_tau([early[i] for i in members], [final[i] for i in members]))
    known = [tau for tau in within if tau == tau]
    return overall, sum(known) / len(known) if known else float("nan")
