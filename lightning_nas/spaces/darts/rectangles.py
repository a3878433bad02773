"""Sets of operations on edges as rectangles, whose weights are stored as stacked tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Rectangle(NamedTuple):
    """All edges from some sources to some targets, each with some operations.

    Attributes:
        targets: Indices of the targets.
        sources: Indices of the sources.
        operations: Indices of the operations.
    """

    targets: tuple[int, ...]
    sources: tuple[int, ...]
    operations: tuple[int, ...]


def rectangles(mask: Tensor) -> list[Rectangle]:
    """Split a set of operations on edges into few rectangles; a simple heuristic, not always the fewest.

    First, operations whose edges to a target come from the same sources are grouped. Within such a group, either
    targets with the same operations are merged or operations with the same targets, whichever gives fewer rectangles.

    Args:
        mask: The set, bool ``(targets, sources, operations)``.

    Returns:
        Disjoint rectangles that cover exactly the set.
    """
    found: list[Rectangle] = []
    rows: dict[tuple[int, ...], dict[int, list[int]]] = {}
    for target, of_target in enumerate(mask.permute(0, 2, 1).tolist()):
        for operation, of_sources in enumerate(of_target):
            sources = tuple(s for s, on in enumerate(of_sources) if on)
            if sources:
                rows.setdefault(sources, {}).setdefault(target, []).append(operation)
    for sources, by_target in rows.items():
        by_operation: dict[int, list[int]] = {}
        for target, operations in by_target.items():
            for operation in operations:
                by_operation.setdefault(operation, []).append(target)
        targets_of, operations_of = _grouped(by_target), _grouped(by_operation)
        if len(targets_of) <= len(operations_of):
            found += [Rectangle(targets, sources, operations) for operations, targets in targets_of.items()]
        else:
            found += [Rectangle(targets, sources, operations) for targets, operations in operations_of.items()]
    return found


def _grouped(values: dict[int, list[int]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Group the keys of equal values: the keys in ascending order, by value."""
    keys: dict[tuple[int, ...], tuple[int, ...]] = {}
    for key in sorted(values):
        keys[tuple(values[key])] = (*keys.get(tuple(values[key]), ()), key)
    return keys


def take(x: Tensor, dim: int, indices: Sequence[int]) -> Tensor:
    """Select indices along a dimension, without a copy where they are all or consecutive.

    Args:
        x: Any tensor.
        dim: The dimension.
        indices: Ascending indices.
    """
    if len(indices) == x.shape[dim]:
        return x
    if list(indices) == list(range(indices[0], indices[0] + len(indices))):
        return x.narrow(dim, indices[0], len(indices))
    return x.index_select(dim, torch.tensor(indices).to(x.device, non_blocking=True))
