"""Non-dominated sorting and crowding distance, by pymoo."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_nas.errors import DataError

Objectives = Sequence[Sequence[float]] | NDArray[np.float64]
"""Objectives of shape ``(n, objectives)``; higher is better for each of them."""


def fronts(values: Objectives) -> list[list[int]]:
    """Sort points into fronts by dominance.

    A point dominates another one if it is nowhere worse and somewhere better. The first front holds the points that are
    not dominated, the second one those that only points of the first front dominate, and so on.

    Args:
        values: Objectives of the points, ``(n, objectives)``; higher is better.

    Returns:
        The indices of the points, one ascending list per front.

    Raises:
        DataError: There are no values, they are not a matrix, or one is not finite.
    """
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    return [sorted(int(i) for i in each) for each in NonDominatedSorting().do(-_checked(values))]


def front(values: Objectives) -> list[int]:
    """The ascending indices of the points that are not dominated, with all equal ones; see ``fronts``."""
    return fronts(values)[0]


def crowding(values: Objectives) -> list[float]:
    """Crowding distance of every point of a front, as NSGA-II uses it.

    For every objective, the distance between the next lower and the next higher point, divided by the range of the
    objective; the crowding distance is the mean over the objectives. It is infinite for the points with the lowest or
    the highest value of an objective.

    Args:
        values: Objectives of the points, ``(n, objectives)``.

    Raises:
        DataError: There are no values, they are not a matrix, or one is not finite.
    """
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function

    return [float(each) for each in get_crowding_function("cd").do(_checked(values))]


def ranked(values: Objectives) -> list[int]:
    """The indices of points from best to worst as NSGA-II ranks them: by front, then by descending crowding distance.

    Args:
        values: Objectives of the points, ``(n, objectives)``; higher is better.

    Raises:
        DataError: There are no values, they are not a matrix, or one is not finite.
    """
    matrix = _checked(values)
    found: list[int] = []
    for each in fronts(matrix):
        distances = crowding(matrix[each])
        found += [each[i] for i in sorted(range(len(each)), key=lambda i: -distances[i])]
    return found


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise DataError(
            f"The values have shape {matrix.shape}, and {int((~np.isfinite(matrix)).sum())} of them are not finite; "
            "they must be finite numbers of shape (architectures, objectives), with at least one of both."
        )
    return matrix
