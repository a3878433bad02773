"""Disagreement between the gradients of operations, and the split that it suggests: GM-NAS (Hu et al., ICLR 2022)."""

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """A split of operations into two groups.

    Attributes:
        groups: The indices of the operations of each group.
        score: Disagreement between the groups: its sum over all pairs with one operation of each group.
    """

    groups: tuple[tuple[int, ...], tuple[int, ...]]
    score: float


def disagreement(gradients: Tensor) -> Tensor:
    """Disagreement ``1 - cos(g_i, g_j)`` between the gradients of every pair of operations.

    A gradient of zero has the disagreement 1 with every other one.

    Args:
        gradients: Gradients of the shared weights, ``(operations, weights)``.

    Returns:
        The disagreement, float64 ``(operations, operations)``.
    """
    directions = torch.nn.functional.normalize(gradients.double(), dim=1)
    return 1.0 - directions @ directions.T


def best_split(disagreement: Tensor) -> Split:
    """The split into two groups of (almost) equal size with the largest disagreement; among equals the first.

    All such splits are compared, as in GM-NAS: for five operations, all splits into two and three.

    Args:
        disagreement: Disagreement between at least two operations, symmetric, ``(operations, operations)``.
    """
    everything = range(len(disagreement))
    found: list[Split] = []
    for first in combinations(everything, len(disagreement) // 2):
        second = tuple(i for i in everything if i not in first)
        found.append(Split((first, second), float(disagreement[list(first)][:, list(second)].sum())))
    return max(found, key=lambda split: split.score)
