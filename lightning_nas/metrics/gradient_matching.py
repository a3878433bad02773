"""How far the gradients of operations disagree, and into which groups that divides them (GM-NAS)."""

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """Operations in two groups.

    Attributes:
        groups: Their indices.
        score: Disagreement between the groups: the sum over pairs of one operation of each.
    """

    groups: tuple[tuple[int, ...], tuple[int, ...]]
    score: float


def disagreement(gradients: Tensor) -> Tensor:
    """``1 - cos(g_i, g_j)`` of whole gradients, ``(operations, operations)``; a gradient of zero agrees with none.

    Args:
        gradients: ``(operations, weights)``.
    """
    directions = torch.nn.functional.normalize(gradients.double(), dim=1)
    return 1.0 - directions @ directions.T


def best_split(disagreement: Tensor) -> Split:
    """The two groups of (almost) equal size with the largest disagreement between them, of equals the first.

    All such groups are looked at, as GM-NAS does: for five operations those of two and three.

    Args:
        disagreement: ``(operations, operations)``, symmetric, of at least two operations.
    """
    everything = range(len(disagreement))
    found: list[Split] = []
    for first in combinations(everything, len(disagreement) // 2):
        second = tuple(i for i in everything if i not in first)
        found.append(Split((first, second), float(disagreement[list(first)][:, list(second)].sum())))
    return max(found, key=lambda split: split.score)
