"""Several objectives at once: who is dominated by nobody, and who is in a crowd."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_nas.errors import DataError

Objectives = Sequence[Sequence[float]] | NDArray[np.float64]
"""``(n, objectives)``; for each, higher is better."""


def fronts(values: Objectives) -> list[list[int]]:
    """Sort by dominance: one dominates another if it is nowhere worse and somewhere better.

    Args:
        values: ``(n, objectives)``; for each, higher is better.

    Returns:
        Indices, in fronts: nobody dominates those of the first, only those of the first the ones of the second, ...

    Raises:
        DataError: There are no values, they are no matrix, or not finite.
    """
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    return [sorted(int(i) for i in each) for each in NonDominatedSorting().do(-_checked(values))]


def front(values: Objectives) -> list[int]:
    """Indices of the non-dominated, in their order; equal ones are all there. See ``fronts``."""
    return fronts(values)[0]


def crowding(values: Objectives) -> list[float]:
    """How far the neighbours of each are (Deb et al., 2002): the mean, over the objectives, of their distance.

    The distance of the next lower and the next higher one is a share of the objective's range; it is infinite for the
    lowest and the highest.

    Args:
        values: ``(n, objectives)``, of one front.

    Raises:
        DataError: There are no values, they are no matrix, or not finite.
    """
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function

    return [float(each) for each in get_crowding_function("cd").do(_checked(values))]


def ranked(values: Objectives) -> list[int]:
    """Indices from best to worst as in NSGA-II: by front, within a front the least crowded first.

    Args:
        values: ``(n, objectives)``; for each, higher is better.

    Raises:
        DataError: There are no values, they are no matrix, or not finite.
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
            f"Values of shape {matrix.shape} were given, {int((~np.isfinite(matrix)).sum())} of them not finite; "
            "expected are finite numbers, (architectures, objectives), one at least of both."
        )
    return matrix
