"""Statistics of a study: what the seeds of an entry scatter by, and whether two entries can be told apart."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000
"""Number of bootstrap resamples of an interval."""

LEVEL = 0.95
"""Confidence level of intervals."""

FEWEST_FOR_TEST = 6
"""Number of differing pairs from which Wilcoxon's test can give a p-value below 0.05; with five it is at least 0.06."""

MOST_EXACT = 16
"""Number of pairs up to which a test with tied differences looks at all signs; beyond, it takes the normal
approximation."""


@dataclass(frozen=True)
class Spread:
    """The values of an entry.

    Attributes:
        n: Number of values.
        mean: Their mean.
        deviation: Their standard deviation, with n - 1; None for a single value.
        worst: The least value, or the largest where lower is better.
        best: The other end.
    """

    n: int
    mean: float
    deviation: float | None
    worst: float
    best: float


@dataclass(frozen=True)
class Difference:
    """The paired difference of an entry to the baseline, over the seeds that both have.

    Attributes:
        n: Number of pairs.
        mean: Mean of the differences; above 0 where the entry is better, also for metrics of which lower is better.
        low: Lower end of the bootstrap interval; None for fewer than two pairs.
        high: Upper end.
        wins: Number of seeds with which the entry is better.
        ties: Number of seeds with which both are equal.
        losses: Number of seeds with which it is worse.
        p: p-value of the two-sided signed-rank test of Wilcoxon; None where too few pairs differ.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    wins: int
    ties: int
    losses: int
    p: float | None


def spread(values: Sequence[float], lower: bool = False) -> Spread:
    """Describe the values of an entry.

    Args:
        values: One value per seed, at least one.
        lower: Whether lower values are better.
    """
    ends = (max(values), min(values)) if lower else (min(values), max(values))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(len(values), statistics.mean(values), deviation, *ends)


def interval(values: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap interval of a mean, over resamples of the seeds.

    It is too narrow for few values: of five, its true level is about 85 % instead of 95 %.

    Args:
        values: One value per seed.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        The ends; None for fewer than two values.
    """
    if len(values) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(np.asarray(values)[draws].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def difference(values: Mapping[int, float], baseline: Mapping[int, float], lower: bool = False) -> Difference | None:
    """Compare an entry with the baseline, pair by pair.

    Args:
        values: Values by seed.
        baseline: Values of the baseline by seed.
        lower: Whether lower values are better.

    Returns:
        None if they have no seed in common.
    """
    sign = -1.0 if lower else 1.0
    gains = [sign * (values[seed] - baseline[seed]) for seed in values if seed in baseline]
    if not gains:
        return None
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    low, high = interval(gains) or (None, None)
    ties = len(gains) - wins - losses
    return Difference(len(gains), statistics.mean(gains), low, high, wins, ties, losses, wilcoxon(gains))


def wilcoxon(gains: Sequence[float]) -> float | None:
    """The p-value of the two-sided signed-rank test of Wilcoxon, without the differences that are 0.

    It is exact: from the distribution without ties, or by looking at all signs of up to ``MOST_EXACT`` tied
    differences. For more of these it is that of the normal approximation.

    Args:
        gains: Paired differences.

    Returns:
        None for fewer than ``FEWEST_FOR_TEST`` differences other than 0.
    """
    from scipy import stats

    moved = [gain for gain in gains if gain != 0]
    if len(moved) < FEWEST_FOR_TEST:
        return None
    method: Any = "exact"
    if len({abs(gain) for gain in moved}) < len(moved):
        exact = len(moved) <= MOST_EXACT
        method = stats.PermutationMethod(n_resamples=2 ** len(moved)) if exact else "approx"
    return float(stats.wilcoxon(moved, method=method).pvalue)
