"""Dominance and crowding against their definitions."""

import numpy as np
import pytest

from lightning_nas.errors import DataError
from lightning_nas.metrics.pareto import crowding, front, fronts, ranked


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a >= b).all() and (a > b).any())


def peeled(values: np.ndarray) -> list[list[int]]:
    """Fronts, one after the other taken away."""
    left, found = list(range(len(values))), []
    while left:
        found.append([i for i in left if not any(dominates(values[j], values[i]) for j in left)])
        left = [i for i in left if i not in found[-1]]
    return found


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_fronts_are_those_of_the_definition(objectives: int) -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).integers(0, 6, (25, objectives)).astype(float)  # with equal ones
        assert fronts(values) == peeled(values)
        assert front(values) == peeled(values)[0]
    assert front([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [2.0, 1.0]]) == [0, 1, 3]


def test_crowding_is_the_mean_share_of_the_range_between_neighbours() -> None:
    # ranges 8 and 4; neighbours of the second: (0, 6) and (5, 3), of the third: (1, 5) and (8, 2)
    found = crowding([[0.0, 6.0], [1.0, 5.0], [5.0, 3.0], [8.0, 2.0]])
    assert found == [np.inf, pytest.approx((5 / 8 + 3 / 4) / 2), pytest.approx((7 / 8 + 3 / 4) / 2), np.inf]
    assert crowding([[3.0, 3.0]]) == [np.inf]


def test_the_order_is_by_front_and_within_by_crowding() -> None:
    values = np.array([[5.0, 3.0], [0.0, 0.0], [1.0, 5.0], [0.0, 6.0], [8.0, 2.0], [4.0, 2.5]])
    assert ranked(values) == [3, 4, 0, 2, 5, 1]
    assert ranked([[1.0], [3.0], [2.0]]) == [1, 2, 0]


@pytest.mark.parametrize("wrong", [[], [[]], [1.0, 2.0], [[1.0, np.nan]], [[np.inf, 1.0]]])
def test_what_cannot_be_compared_is_named(wrong: list[list[float]]) -> None:
    for function in (front, fronts, crowding, ranked):
        with pytest.raises(DataError, match="they must be finite numbers"):
            function(wrong)
