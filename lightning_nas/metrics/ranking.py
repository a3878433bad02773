"""How well scores rank architectures: rank correlation, its uncertainty, and the price of trusting the first choice."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

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
    defined = values[~np.isnan(values)]
    share = 1 - len(defined) / samples
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
