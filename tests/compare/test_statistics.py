"""Statistics of a study, on cases that can be computed by hand."""

import math

import pytest

from lightning_nas.compare.statistics import difference, interval, spread, wilcoxon


def test_spread_of_seeds() -> None:
    found = spread([1.0, 2.0, 3.0])
    assert (found.n, found.mean, found.deviation, found.worst, found.best) == (3, 2.0, 1.0, 1.0, 3.0)
    assert spread([1.0, 2.0, 3.0], lower=True).worst == 3.0
    assert spread([1.0]).deviation is None


def test_interval_of_a_mean() -> None:
    low, high = interval([1.0, 2.0, 3.0, 4.0]) or (math.nan, math.nan)
    assert 1.0 <= low < 2.5 < high <= 4.0
    assert interval([5.0, 5.0]) == (5.0, 5.0)
    assert interval([5.0]) is None


def test_difference_is_paired_by_seed() -> None:
    found = difference({0: 3.0, 1: 5.0, 2: 1.0, 9: 100.0}, {0: 1.0, 1: 5.0, 2: 2.0})
    assert found is not None
    assert (found.n, found.wins, found.ties, found.losses) == (3, 1, 1, 1)
    assert found.mean == pytest.approx(1 / 3)
    assert found.p is None
    assert difference({0: 1.0}, {1: 1.0}) is None


def test_a_lower_value_wins_where_lower_is_better() -> None:
    found = difference({0: 1.0, 1: 1.0}, {0: 2.0, 1: 3.0}, lower=True)
    assert found is not None
    assert (found.wins, found.losses, found.mean) == (2, 0, 1.5)


def test_wilcoxon_is_exact() -> None:
    assert wilcoxon([1, 2, 3, 4, 5]) is None  # 2 / 2^5 is above 0.05
    assert wilcoxon([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 2**6)
    assert wilcoxon([1, 2, 3, 4, 5, 6, 0, 0]) == pytest.approx(2 / 2**6)
    assert wilcoxon([1, 2, 3, 0, 0, 0, 0]) is None
    # all ranks are tied: the number of positive signs is binomial
    assert wilcoxon([1.0] * 6) == pytest.approx(2 / 2**6)
    assert wilcoxon([1.0] * 5 + [-1.0]) == pytest.approx(2 * 7 / 2**6)
    assert wilcoxon([1.0, -1.0] * 4) == 1.0
    assert 0 < (wilcoxon([1.0, 1.0, *range(2, 30)]) or 1.0) < 1e-4
