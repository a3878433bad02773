"""Are two classifiers different, given the same test images?"""

import math
from typing import NamedTuple

from torch import Tensor

from lightning_nas.checks import at_least

Z = 1.959964
"""Quantile of the normal distribution for intervals of 95 %."""


def wilson_interval(rate: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion.

    Unlike the mean plus or minus two standard errors, it stays within [0, 1] and is not empty at 0 and 1.

    References:
        1. Wilson: Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927,
           https://doi.org/10.1080/01621459.1927.10502953

    Args:
        rate: The proportion, such as the accuracy on a test set.
        count: Number of trials, such as test images, at least 1.

    Returns:
        Lower and upper end.

    Raises:
        ConfigError: ``count`` is below 1.

    Example:
        ```python
        wilson_interval(0.99, 360)  # (0.973, 0.996)
        ```
    """
    at_least(1, count=count)
    share = Z**2 / count
    middle = (rate + share / 2) / (1 + share)
    half = math.sqrt(rate * (1 - rate) * share + share**2 / 4) / (1 + share)
    return max(0.0, middle - half), min(1.0, middle + half)


class PairedTest(NamedTuple):
    """Two classifiers on the same images.

    Attributes:
        better: Number of images on which the first one is better.
        worse: Number of images on which the second one is better.
        ties: Number of images on which both are equal.
        p: Probability of so uneven a split of the images that are not ties, if both were equally good (two-sided).
    """

    better: int
    worse: int
    ties: int
    p: float


def sign_test(first: Tensor, second: Tensor) -> PairedTest:
    """Compare two classifiers by the exact sign test over images; with one training of each, it is McNemar's test.

    References:
        1. McNemar: Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages,
           Psychometrika 1947, https://doi.org/10.1007/BF02295996

    Args:
        first: Share of trainings with which the first classifier is right about an image, ``(images,)``: 0 or 1 where
            it was trained once.
        second: The same of the second classifier, for the same images in the same order.

    Example:
        ```python
        sign_test((predicted == labels).float(), (others == labels).float()).p
        ```
    """
    from scipy import stats  # slow to import

    difference = first.double() - second.double()
    better = int((difference > 1e-9).sum())
    worse = int((difference < -1e-9).sum())
    p = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return PairedTest(better, worse, len(difference) - better - worse, p)
