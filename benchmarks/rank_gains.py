"""Statistics of rankings that several benchmarks report."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_nas.errors import DataError
from lightning_nas.metrics.ranking import Statistic, kendall_tau
from lightning_nas.strategies.dcnas import clustered


def gain_interval(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    target: Sequence[float],
    statistic: Statistic,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the gain of a statistic, over resamples of runs and of architectures.

    A resample draws runs and architectures with replacement, the same for both sides, and averages ``statistic(after) -
    statistic(before)`` over its runs. Resamples in which the statistic is nan are left out.

    Args:
        before: Scores of the same architectures, one sequence per run, such as of supernets of several seeds.
        after: Scores of the same runs with what is to gain.
        target: Measured performance of the architectures.
        statistic: A statistic, such as ``kendall_tau``.
        samples: Number of resamples.
        level: Confidence level.
        seed: Seed of the resamples.

    Returns:
        The lower and the upper end.

    Raises:
        DataError: The two sides differ in the number of runs, or there is none.
    """
    if not len(before) or len(before) != len(after):
        raise DataError(f"There are scores of {len(before)} and of {len(after)} runs; equally many are needed.")
    old, new, true = (np.asarray(values, np.float64) for values in (before, after, target))
    generator = np.random.default_rng(seed)
    gains = np.empty(samples)
    for i in range(samples):
        runs = generator.integers(len(old), size=len(old))
        draw = generator.integers(len(true), size=len(true))
        targets = true[draw].tolist()
        pairs = [(old[run][draw].tolist(), new[run][draw].tolist()) for run in runs]
        gains[i] = np.mean([statistic(better, targets) - statistic(worse, targets) for worse, better in pairs])
    low, high = np.nanquantile(gains, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def cluster_correlations(
    features: NDArray[np.float64], early: Sequence[float], final: Sequence[float], clusters: int, seed: int = 0
) -> tuple[float, float]:
    """Kendall's tau between early and final results: over all architectures, and within clusters.

    DC-NAS rests on the claim that the second is higher.

    Args:
        features: Features of the architectures, ``(architectures, features)``.
        early: Results of short trainings; higher is better.
        final: Results of long trainings; higher is better.
        clusters: Number of clusters.
        seed: Seed of the starts of k-means.

    Returns:
        Tau over all architectures, and the mean of tau over the clusters in which it is defined; nan if there is none.

    Raises:
        DataError: Features and results differ in number.
    """
    overall = kendall_tau(early, final)
    labels: Any = np.asarray(clustered(features, clusters, seed))
    if len(labels) != len(early):
        raise DataError(f"There are features of {len(labels)} architectures and results of {len(early)}; give as many.")
    within = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label).tolist()
        if len(members) > 1:
            within.append(kendall_tau([early[i] for i in members], [final[i] for i in members]))
    known = [tau for tau in within if tau == tau]
    return overall, sum(known) / len(known) if known else float("nan")
