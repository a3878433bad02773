"""Alphas of a space from which operations were taken away, or that are not asked any more."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.spaces.base import DifferentiableSpace, Mixture

EMPTY = -1e9
"""The alphas of an edge that may take no operation: no share against other edges, but a softmax of its own."""


class AlphaMask:
    """What a space does not allow: the alphas of such operations keep their place, but count for nothing.

    Args:
        space: The space; one that allows everything closes nothing.

    Attributes:
        frozen: The architecture that the supernet is from now on, whatever the alphas are; None while it is searched.
    """

    def __init__(self, space: DifferentiableSpace) -> None:
        self.space = space
        self.frozen: Architecture | None = None
        self.masks = {name: ~mask for name, mask in space.allowed.items() if not mask.all()}

    def alphas(self, alphas: Mapping[str, Tensor], empty: float = EMPTY) -> dict[str, Tensor]:
        """Alphas ``(edges, operations)`` by cell type, ``-inf`` where an operation is not allowed.

        Args:
            alphas: All of them.
            empty: What those of an edge become that may take no operation at all.
        """
        opened = dict(alphas)
        for name, closed in self.masks.items():
            closed = closed.to(opened[name].device)
            opened[name] = opened[name].masked_fill(closed, -torch.inf)
            opened[name] = opened[name].masked_fill(closed.all(1, keepdim=True), empty)
        return opened

    def edges(self, edge_alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Alphas of edges ``(edges,)`` by cell type; those of an edge without an operation take no share."""
        opened = dict(edge_alphas)
        for name in opened.keys() & self.masks.keys():
            opened[name] = opened[name].masked_fill(self.masks[name].all(1).to(opened[name].device), EMPTY)
        return opened

    def fixed(self, like: Tensor) -> dict[str, Mixture] | None:
        """The factors of a frozen architecture; None where there is none.

        Args:
            like: Of their device and type.
        """
        if self.frozen is None:
            return None
        discrete = self.space.to_path(self.frozen).items()
        return {name: Mixture(m.operations.to(like), m.edges.to(like), m.active) for name, m in discrete}

    def mixture(self, name: str, mixture: Mixture) -> Mixture:
        """The factors of a cell type, 0 for what is not allowed."""
        if name not in self.masks:
            return mixture
        closed = self.masks[name].to(mixture.operations.device)
        operations = mixture.operations.masked_fill(closed, 0.0)
        return Mixture(operations, mixture.edges.masked_fill(closed.all(1), 0.0))
