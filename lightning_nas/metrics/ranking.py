"""How well scores rank architectures: rank correlations, overlaps and regret, with bootstrap intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_nas.checks import at_least, within
from lightning_nas.errors import ConfigError, DataError

Values = NDArray[np.float64]
"""An array of float64."""

Statistic = Callable[[Sequence[float], Sequence[float]], float]
"""A statistic of the scores and the target of the same architectures, one value each; higher is better in both."""


class Interval(NamedTuple):
    """A bootstrap interval.

    Attributes:
        low: Lower end; nan if the statistic is nan in every resample.
        high: Upper end; nan if the statistic is nan in every resample.
        undefined: Fraction of the resamples in which the statistic is nan; they are left out.
    """

    low: float
    high: float
    undefined: float


def kendall_tau(scores: Sequence[float], target: Sequence[float]) -> float:
    """Kendall's tau-b: the fraction of concordant pairs minus that of discordant ones, corrected for ties.

    Args:
        scores: Predicted scores of architectures; higher is better.
        target: Measured performance of the same architectures; higher is better.

    Returns:
        A value in [-1, 1]; nan if all scores or all targets are equal.

    Raises:
        DataError: There are fewer than two architectures, the lengths differ, or a value is not finite.
    """
    first, second = _checked(scores, target)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)


def weighted_tau(scores: Sequence[float], target: Sequence[float]) -> float:
    """Kendall's tau with more weight on pairs of good architectures.

    A pair has the weight ``1 / (1 + r) + 1 / (1 + s)``, where r and s are the ranks of its targets from 0 for the best:
    the additive hyperbolic weights of Vigna. Architectures with equal targets share the mean of the weights of their
    ranks, so that their order does not matter.

    References:
        1. Vigna: A Weighted Correlation Index for Rankings with Ties, WWW 2015, https://arxiv.org/abs/1404.3325

    Args:
        scores: Predicted scores of architectures; higher is better.
        target: Measured performance of the same architectures; higher is better.

    Returns:
        A value in [-1, 1]; nan if all scores or all targets are equal.

    Raises:
        DataError: There are fewer than two architectures, the lengths differ, or a value is not finite.
    """
    first, second = _checked(scores, target)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    from scipy.stats import weightedtau

    order = (-second).argsort(kind="stable")
    ties = np.unique(-second[order], return_inverse=True)[1].ravel()
    weights = 1 / (1.0 + np.arange(len(second)))
    weights = (np.bincount(ties, weights) / np.bincount(ties))[ties]
    return float(weightedtau(first, second, rank=order.argsort(), weigher=weights.__getitem__).statistic)


def spearman(scores: Sequence[float], target: Sequence[float]) -> float:
    """Spearman's rho: the correlation of ranks, where equal values share their mean rank.

    Args:
        scores: Predicted scores of architectures; higher is better.
        target: Measured performance of the same architectures; higher is better.

    Returns:
        A value in [-1, 1]; nan if all scores or all targets are equal.

    Raises:
        DataError: There are fewer than two architectures, the lengths differ, or a value is not finite.
    """
    first, second = _checked(scores, target)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def local(statistic: Statistic, share: float) -> Statistic:
    """Restrict a statistic to the best architectures, among which a search ends.

    On a truncated range a statistic has a far larger variance than on the whole: look at its interval. In a bootstrap,
    the best architectures are those of each resample.

    References:
        1. Zhang, Wang, Qin, Yan: Boosting Order-Preserving and Transferability for Neural Architecture Search: a Joint
           Architecture Refined Search and Fine-tuning Approach, CVPR 2024, https://arxiv.org/abs/2403.11380

    Args:
        statistic: A statistic, such as ``kendall_tau``.
        share: Fraction of the architectures with the highest targets to keep, in (0, 1]. At least two are kept, and all
            that are equal to the last of them.

    Returns:
        The restricted statistic.

    Raises:
        ConfigError: ``share`` is out of its range.
    """
    within("(0, 1]", share=share)

    def restricted(scores: Sequence[float], target: Sequence[float]) -> float:
        first, second = _checked(scores, target)
        least = np.sort(second)[-max(2, round(share * len(second)))]
        return statistic(first[second >= least].tolist(), second[second >= least].tolist())

    return restricted


def top_k_overlap(k: int) -> Statistic:
    """The fraction of the k architectures with the highest scores that are among the k best ones.

    Where scores at the border are equal, it is the expectation over the choice among them. Where targets at the border
    are equal, all of them count as best, so that the fraction can still be 1.

    Args:
        k: Number of architectures, from 1 to the number of all.

    Returns:
        The statistic; it raises ``ConfigError`` if ``k`` is out of its range.
    """

    def overlap(scores: Sequence[float], target: Sequence[float]) -> float:
        first, second = _checked(scores, target)
        best = second >= np.sort(second)[-_k(k, len(second))]
        border = np.sort(first)[-k]
        sure, tied = first > border, first == border
        chance = (k - sure.sum()) / tied.sum()
        return float(min(1.0, (best[sure].sum() + chance * best[tied].sum()) / k))

    return overlap


def best_rank(k: int) -> Statistic:
    """The rank, from 1, of the best architecture among the k with the highest scores.

    Where scores at the border are equal, all of these architectures are among them: the rank is then at least as good
    as that of any choice among them.

    Args:
        k: Number of architectures, from 1 to the number of all.

    Returns:
        The statistic; it raises ``ConfigError`` if ``k`` is out of its range.
    """

    def rank(scores: Sequence[float], target: Sequence[float]) -> float:
        first, second = _checked(scores, target)
        chosen = first >= np.sort(first)[-_k(k, len(first))]
        return float((second > second[chosen].max()).sum() + 1)

    return rank


def regret(scores: Sequence[float], target: Sequence[float]) -> float:
    """How much worse the architecture with the highest score is than the best one.

    Where several architectures share the highest score, their mean target counts.

    Args:
        scores: Predicted scores of architectures; higher is better.
        target: Measured performance of the same architectures; higher is better.

    Returns:
        A difference of targets, at least 0.

    Raises:
        DataError: There are fewer than two architectures, the lengths differ, or a value is not finite.
    """
    first, second = _checked(scores, target)
    return float(second.max() - second[first == first.max()].mean())


def ranking(
    scores: Sequence[float],
    target: Sequence[float],
    share: float = 0.1,
    k: int = 10,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """All rank statistics, each with the ends of its 95 % bootstrap interval (``_low`` and ``_high``).

    Args:
        scores: Predicted scores of architectures; higher is better.
        target: Measured performance of the same architectures; higher is better.
        share: Fraction of the best architectures for ``local_kendall_tau``, in (0, 1].
        k: Number of architectures for ``top_k_overlap`` and ``best_rank``, at least 1; all where there are fewer.
        samples: Number of bootstrap resamples, at least 1.
        seed: Seed of the resamples.

    Returns:
        ``kendall_tau``, ``local_kendall_tau``, ``weighted_tau``, ``spearman``, ``top_k_overlap``, ``best_rank`` and
        ``regret``, with their intervals.

    Raises:
        ConfigError: An argument is out of its range.
        DataError: There are fewer than two architectures, the lengths differ, or a value is not finite.
    """
    first, _ = _checked(scores, target)
    k = min(k, len(first))
    statistics: dict[str, Statistic] = {
        "kendall_tau": kendall_tau,
        "local_kendall_tau": local(kendall_tau, share),
        "weighted_tau": weighted_tau,
        "spearman": spearman,
        "top_k_overlap": top_k_overlap(k),
        "best_rank": best_rank(k),
        "regret": regret,
    }
    found: dict[str, float] = {}
    for name, statistic in statistics.items():
        interval = bootstrap_interval(statistic, scores, target, samples, seed=seed)
        found |= {name: statistic(scores, target), f"{name}_low": interval.low, f"{name}_high": interval.high}
    return found


def bootstrap_interval(
    statistic: Statistic,
    scores: Sequence[float],
    target: Sequence[float],
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic, over resamples of the architectures.

    Resamples in which the statistic is nan, for example because all scores are equal, are left out.

    Args:
        statistic: A statistic, such as ``kendall_tau`` or ``regret``.
        scores: Predicted scores of architectures; higher is better.
        target: Measured performance of the same architectures; higher is better.
        samples: Number of resamples, at least 1.
        level: Confidence level, in (0, 1).
        seed: Seed of the resamples.

    Raises:
        ConfigError: ``samples`` or ``level`` is out of its range.
        DataError: There are fewer than two architectures, the lengths differ, or a value is not finite.
    """
    at_least(1, samples=samples)
    within("(0, 1)", level=level)
    first, second = _checked(scores, target)
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(first), size=(samples, len(first)))
    values = np.array([statistic(first[draw].tolist(), second[draw].tolist()) for draw in draws])
    defined = values[~np.isnan(values)]
    undefined = 1 - len(defined) / len(values)
    if not len(defined):
        return Interval(float("nan"), float("nan"), undefined)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), undefined)


def _checked(scores: Sequence[float], target: Sequence[float]) -> tuple[Values, Values]:
    """Scores and target as arrays."""
    first, second = np.asarray(scores, np.float64), np.asarray(target, np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise DataError(
            f"The scores have shape {first.shape} and the target {second.shape}; both must hold one value per "
            "architecture, of the same two or more architectures in the same order."
        )
    for name, values in (("scores", first), ("target", second)):
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise DataError(
                f"{len(wrong)} of {len(values)} values of the {name} are not finite, the first at {wrong[0]} "
                f"({values[wrong[0]]}). Leave these architectures out, or measure them again."
            )
    return first, second


def _k(k: int, count: int) -> int:
    if not 1 <= k <= count:
        raise ConfigError(f"k is {k}; it must lie between 1 and the number of architectures, {count}.")
    return k
