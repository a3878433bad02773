"""Search by clusters of similar architectures: DC-NAS (Wang et al., 2020)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.predictors.regressors import one_hot
from lightning_nas.strategies.base import Result, Strategy


class DCNAS(Strategy):
    """Clusters random architectures and improves the winner of every cluster through its neighbours.

    The paper clusters architectures by how a short training changes them, compares them within a cluster after short
    trainings, because only similar architectures are comparable so early, and compares the winners of all clusters
    after long trainings. This class is a reconstruction from the abstract for a single evaluator without early and late
    results:

    1. Random architectures are evaluated and clustered by k-means, on the features of the evaluator, or on one-hot
       choices where it gives none, as tables do.
    2. In each turn, some neighbours of a cluster's winner are evaluated, in random order. New architectures join that
       cluster, and replace its winner if they are better.
    3. Every cluster gets a turn, that of the best winner first. Then the turn goes to the cluster whose winner gained
       most in its last turn, among equals to the one with the best winner.

    Where no winner has unknown neighbours, random architectures are evaluated.

    References:
        1. Wang, Xu, Tao: DC-NAS: Divide-and-Conquer Neural Architecture Search, 2020, https://arxiv.org/abs/2005.14456

    Attributes:
        cluster: The cluster of every clustered architecture, by its key.
        winners: The key of every cluster's winner; empty before the clustering.

    Args:
        samples: Number of random architectures, at least 1.
        clusters: Number of clusters, from 1 to ``samples``; there are fewer if fewer architectures have different
            features.
        turn: Number of neighbours per turn, at least 1.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: DCNAS, init_args: {samples: 50, clusters: 5}}
        ```
    """

    def __init__(self, samples: int = 50, *, clusters: int = 5, turn: int = 5) -> None:
        at_least(1, samples=samples, clusters=clusters, turn=turn)
        if clusters > samples:
            raise ConfigError(f"clusters is {clusters}; it must be at most samples, {samples}.")
        self.samples = samples
        self.clusters = clusters
        self.turn = turn

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.cluster: dict[str, int] = {}
        self.winners: list[str] = []
        self._features: dict[str, list[float]] = {}
        self._near: list[list[Architecture]] = []  # the winners' neighbours, one list per cluster
        self._gains: list[float] = []  # what the winners' fitness has gained in their last turns
        self._current = 0  # the cluster whose turn it is
        self._left = 0  # architectures that are left of its turn

    def ask(self, count: int) -> list[Architecture]:
        """Propose random architectures, then neighbours of a cluster's winner; see ``Strategy.ask``.

        Raises:
            ConfigError: The evaluator gave features for some of the architectures only, or of different lengths.
        """
        if not self.winners:
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
        """Cluster all evaluated architectures."""
        keys = list(self.evaluated)
        given = len(self._features)
        if given:
            lengths = {len(values) for values in self._features.values()}
            if given != len(keys) or len(lengths) != 1:
                raise ConfigError(
                    f"The evaluator gave features for {given} of {len(keys)} architectures, with {sorted(lengths)} "
                    "numbers; it must give equally many for each architecture, or none at all. Use another evaluator."
                )
            features = np.asarray([self._features[key] for key in keys], np.float64)
        else:
            features = one_hot([self.evaluated[key].choices for key in keys], self.space.num_values)
        seed = int(torch.randint(2**32, (1,), generator=self.generator))
        labels = clustered(features, min(self.clusters, len(keys)), seed)
        self.cluster = dict(zip(keys, labels, strict=True))
        self._features = {}
        self._near = [[] for _ in range(max(labels) + 1)]
        self.winners = [""] * len(self._near)
        self._gains = [float("inf")] * len(self._near)  # so that every cluster has a turn
        for key in keys:
            self._compare(key)

    def _compare(self, key: str) -> None:
        """Make an architecture the winner of its cluster if it is the best there."""
        place = self.cluster[key]
        winner = self.winners[place]
        if winner and self.fitness[key] <= self.fitness[winner]:
            return
        if winner and place == self._current:
            self._gains[place] += self.fitness[key] - self.fitness[winner]
        self.winners[place] = key
        others = {self.space.key(a): a for a in self.space.neighbours(self.evaluated[key])}
        near = list(others.values())
        self._near[place] = [near[i] for i in torch.randperm(len(near), generator=self.generator).tolist()]

    def _unknown(self, place: int) -> list[Architecture]:
        return [a for a in self._near[place] if not self.seen(a)]

    def _choose(self) -> None:
        """Give the next turn to the cluster that gained most in its last one, if its winner has unknown neighbours."""
        places = [place for place in range(len(self._near)) if self._unknown(place)]
        if places:
            self._current = max(places, key=lambda i: (self._gains[i], self.fitness[self.winners[i]]))
            self._gains[self._current] = 0.0
            self._left = self.turn

    def tell(self, results: Sequence[Result]) -> None:
        """Learn evaluations; new architectures join the cluster whose turn it is. See ``Strategy.tell``."""
        new = [pair for pair in results if self.space.key(pair[0]) not in self.evaluated]
        super().tell(results)
        for architecture, evaluation in new:
            key = self.space.key(architecture)
            if self.winners:
                self.cluster[key] = self._current
                self._left = max(0, self._left - 1)
                self._compare(key)
            elif evaluation.features is not None:
                self._features[key] = evaluation.features.flatten().tolist()

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        places = {key: place for place, key in enumerate(self.evaluated)}
        return {
            **super().state_dict(),
            "features": {places[key]: values for key, values in self._features.items()},
            "cluster": {places[key]: place for key, place in self.cluster.items()},
            "near": [[list(a.choices) for a in near] for near in self._near],
            "winners": [places[key] for key in self.winners],
            "gains": list(self._gains),
            "turn": [self._current, self._left],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        keys = list(self.evaluated)
        self._features = {keys[place]: values for place, values in state["features"].items()}
        self.cluster = {keys[place]: cluster for place, cluster in state["cluster"].items()}
        self._near = [[self.space.architecture(choices) for choices in near] for near in state["near"]]
        self.winners = [keys[place] for place in state["winners"]]
        self._gains = list(state["gains"])
        self._current, self._left = state["turn"]


def clustered(features: NDArray[np.float64], clusters: int, seed: int) -> list[int]:
    """Cluster architectures by k-means.

    Args:
        features: Features of the architectures, ``(architectures, features)``.
        clusters: Number of clusters, from 1 to the number of architectures; there are fewer if fewer architectures have
            different features.
        seed: Seed of the starts of k-means.

    Returns:
        The cluster of every architecture, numbered from 0 without gaps.

    Raises:
        ConfigError: ``clusters`` is out of its range.
        DataError: The features are not a matrix, or one is not finite.
    """
    from sklearn.cluster import KMeans

    if features.ndim != 2 or not np.isfinite(features).all():
        raise DataError(
            f"The features have shape {features.shape}, and {int((~np.isfinite(features)).sum())} of them are not "
            "finite; they must be finite numbers of shape (architectures, features)."
        )
    if not 1 <= clusters <= len(features):
        raise ConfigError(
            f"clusters is {clusters} for {len(features)} architectures; it must lie between 1 and their number."
        )
    different = min(clusters, len(np.unique(features, axis=0)))
    labels = KMeans(different, n_init=10, random_state=seed).fit_predict(features)
    return [int(label) for label in np.unique(labels, return_inverse=True)[1]]
