"""How well scores rank architectures: rank correlation, its uncertainty, and the price of trusting the first choice."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr, weightedtau

from lightning_nas.errors import ConfigError, DataError

Values = NDArray[np.float64]
Statistic = Callable[[Sequence[float], Sequence[float]], float]
"""From scores and truth, a value an architecture and higher better in both, to a number."""


class Interval(NamedTuple):
    """What a bootstrap says.

    Attributes:
        low: Lower end; nan if the statistic was defined for no resample.
        high: Upper end, likewise.
        undefined: Share of the resamples that the statistic was nan for, which are left out.
    """

    low: float
    high: float
    undefined: float


def _checked(scores: Sequence[float], truth: Sequence[float]) -> tuple[Values, Values]:
    """Both as arrays.

    Raises:
        DataError: They differ in length, have fewer than two values, or one that is not finite.
    """
    first, second = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise DataError(
            f"Scores have shape {first.shape} and the truth {second.shape}; both must be one value an architecture, of "
            "the same architectures in the same order, and of two or more."
        )
    for name, values in (("scores", first), ("truth", second)):
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise DataError(
                f"{len(wrong)} of {len(values)} {name} are not finite, the first at {wrong[0]} ({values[wrong[0]]}). "
                "Leave these architectures out, or measure them again."
            )
    return first, second


def kendall_tau(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau-b: the share of pairs in the right order less the share in the wrong one, corrected for ties.

    Args:
        scores: What a method predicts; the higher, the better.
        truth: What was measured, likewise, in the same order.

    Returns:
        From -1 to 1; nan where all scores or all truths are equal, because these have no order.

    Raises:
        DataError: They differ in length, are fewer than two, or not finite.
    """
    first, second = _checked(scores, truth)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(kendalltau(first, second).statistic)


def weighted_tau(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau in which pairs of truly good architectures count more.

    A pair weighs ``1 / (1 + r) + 1 / (1 + s)`` with the true ranks r and s, from 0 for the best (hyperbolic, additive;
    Vigna: A Weighted Correlation Index for Rankings with Ties, WWW 2015).

    Args:
        scores: What a method predicts; the higher, the better.
        truth: What was measured, likewise, in the same order.

    Returns:
        From -1 to 1; nan where all scores or all truths are equal.

    Raises:
        DataError: They differ in length, are fewer than two, or not finite.
    """
    first, second = _checked(scores, truth)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    ranks = (-second).argsort(kind="stable").argsort(kind="stable")
    return float(weightedtau(first, second, rank=ranks).statistic)


def spearman(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Spearman's rho: the correlation of ranks, ties at their mean rank.

    Args:
        scores: What a method predicts; the higher, the better.
        truth: What was measured, likewise, in the same order.

    Returns:
        From -1 to 1; nan where all scores or all truths are equal.

    Raises:
        DataError: They differ in length, are fewer than two, or not finite.
    """
    first, second = _checked(scores, truth)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)


def local(statistic: Statistic, share: float) -> Statistic:
    """A statistic of the truly best architectures alone: whether the order is kept where a search ends.

    Beware: on a truncated range it scatters far more than on the whole; look at its interval. Inside a bootstrap the
    best share is that of every resample.

    References:
        1. Zhang, Wang, Qin, Yan: Boosting Order-Preserving and Transferability for Neural Architecture Search: a Joint
           Architecture Refined Search and Fine-tuning Approach, CVPR 2024, https://arxiv.org/abs/2403.11380

    Args:
        statistic: Such as ``kendall_tau``.
        share: Of all architectures, above 0, at most 1; at least two are kept, and all that equal the last of them.

    Raises:
        ConfigError: ``share`` is out of its range.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share}; it must be above 0 and at most 1.")

    def restricted(scores: Sequence[float], truth: Sequence[float]) -> float:
        first, second = _checked(scores, truth)
        least = np.sort(second)[-max(2, round(share * len(second)))]
        return statistic(first[second >= least].tolist(), second[second >= least].tolist())

    return restricted


def top_k_overlap(k: int) -> Statistic:
    """The share of the k truly best architectures that are among the k highest scored.

    Where scores at the border are equal, the expectation over the choice among them; where truths at the border are
    equal, all of them count as truly best, and a share of 1 can still be reached.

    Args:
        k: At least 1, at most the number of architectures.

    Raises:
        ConfigError: It is not.
    """

    def overlap(scores: Sequence[float], truth: Sequence[float]) -> float:
        first, second = _checked(scores, truth)
        best = second >= np.sort(second)[-_k(k, len(second))]
        border = np.sort(first)[-k]
        sure, tied = first > border, first == border
        chance = (k - sure.sum()) / tied.sum()
        return float(min(1.0, (best[sure].sum() + chance * best[tied].sum()) / k))

    return overlap


def best_rank(k: int) -> Statistic:
    """The true rank of the best architecture among the k highest scored, 1 for the best of all.

    Where scores at the border are equal, all of these are among them: the rank is then at least as good as that of any
    choice.

    Args:
        k: At least 1, at most the number of architectures.

    Raises:
        ConfigError: It is not.
    """

    def rank(scores: Sequence[float], truth: Sequence[float]) -> float:
        first, second = _checked(scores, truth)
        chosen = first >= np.sort(first)[-_k(k, len(first))]
        return float((second > second[chosen].max()).sum() + 1)

    return rank


def _k(k: int, count: int) -> int:
    if not 1 <= k <= count:
        raise ConfigError(f"k is {k}; it must be from 1 to the number of architectures, {count}.")
    return k


def ranking(
    scores: Sequence[float],
    truth: Sequence[float],
    share: float = 0.1,
    k: int = 10,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """All statistics of a ranking, each with the ends of its 95 % bootstrap interval (``_low``, ``_high``).

    Args:
        scores: What a method predicts; the higher, the better.
        truth: What was measured, likewise, in the same order.
        share: See ``local``.
        k: See ``top_k_overlap`` and ``best_rank``; all architectures where there are fewer.
        samples: See ``bootstrap_interval``.
        seed: Likewise.

    Returns:
        ``kendall_tau``, ``local_kendall_tau``, ``weighted_tau``, ``spearman``, ``top_k_overlap``, ``best_rank`` and
        ``regret``.

    Raises:
        ConfigError: An argument is out of its range.
        DataError: Scores and truth differ in length, are fewer than two, or not finite.
    """
    first, _ = _checked(scores, truth)
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
        interval = bootstrap_interval(statistic, scores, truth, samples, seed=seed)
        found |= {name: statistic(scores, truth), f"{name}_low": interval.low, f"{name}_high": interval.high}
    return found


def gain_interval(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    truth: Sequence[float],
    statistic: Statistic,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of how much a statistic gains, over runs and architectures.

    A resample draws runs and architectures with replacement, the same for both sides, and takes the mean over its runs
    of ``statistic(after) - statistic(before)``.

    Args:
        before: Scores of the same architectures, a sequence a run, such as of supernets of several seeds.
        after: Likewise, of the same runs.
        truth: What was measured.
        statistic: Such as ``kendall_tau``.
        samples: Number of resamples, at least 1.
        level: Of confidence, between 0 and 1.
        seed: Of the resamples.

    Raises:
        ConfigError: ``samples`` or ``level`` is out of its range.
        DataError: There is no run, the two have not equally many, or scores and truth do not fit.
    """
    if samples < 1 or not 0 < level < 1:
        raise ConfigError(f"samples is {samples} and level {level}; they must be at least 1, and between 0 and 1.")
    if not len(before) or len(before) != len(after):
        raise DataError(f"There are scores of {len(before)} and of {len(after)} runs; expected as many, and some.")
    pairs = [(_checked(old, truth), _checked(new, truth)[0]) for old, new in zip(before, after, strict=True)]
    generator = np.random.default_rng(seed)
    values = np.empty(samples)
    for i in range(samples):
        runs = generator.integers(len(pairs), size=len(pairs))
        draw = generator.integers(len(truth), size=len(truth))
        gains = []
        for run in runs:
            (old, true), new = pairs[run]
            truths = true[draw].tolist()
            gains.append(statistic(new[draw].tolist(), truths) - statistic(old[draw].tolist(), truths))
        values[i] = np.mean(gains)
    return _percentiles(values, level)


def bootstrap_interval(
    statistic: Statistic,
    scores: Sequence[float],
    truth: Sequence[float],
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a statistic: architectures are drawn with replacement, scores and truth together.

    A resample that the statistic is nan for (all of its scores are equal, say) tells nothing of it and is left out;
    their share is returned.

    Args:
        statistic: Such as ``kendall_tau`` or ``regret``.
        scores: As for the statistic.
        truth: Likewise.
        samples: Number of resamples, at least 1.
        level: Of confidence, between 0 and 1.
        seed: Of the resamples.

    Raises:
        ConfigError: ``samples`` or ``level`` is out of its range.
        DataError: Scores and truth differ in length, are fewer than two, or not finite.
    """
    if samples < 1 or not 0 < level < 1:
        raise ConfigError(f"samples is {samples} and level {level}; they must be at least 1, and between 0 and 1.")
    first, second = _checked(scores, truth)
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(first), size=(samples, len(first)))
    values = np.array([statistic(first[draw].tolist(), second[draw].tolist()) for draw in draws])
    return _percentiles(values, level)


def _percentiles(values: Values, level: float) -> Interval:
    defined = values[~np.isnan(values)]
    share = 1 - len(defined) / len(values)
    if not len(defined):
        return Interval(float("nan"), float("nan"), share)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), share)


def regret(scores: Sequence[float], truth: Sequence[float]) -> float:
    """What trusting the scores costs: the best truth less the truth of the architecture with the highest score.

    Where several share the highest score, the mean of their truths counts: one of them would be taken at random.

    Args:
        scores: What a method predicts; the higher, the better.
        truth: What was measured, likewise, in the same order.

    Returns:
        At least 0, in the unit of the truth.

    Raises:
        DataError: They differ in length, are fewer than two, or not finite.
    """
    first, second = _checked(scores, truth)
    return float(second.max() - second[first == first.max()].mean())
