"""The discretization of DARTS."""

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.discretization.base import Discretizer


class SoftmaxScore(Discretizer):
    """Score of an operation: its softmaxed share within its own edge, ``none`` taking part in the softmax.

    A node's edges are compared by shares that were normalised edge by edge, which are not comparable across edges: the
    source of selection errors (``lightning_nas.metrics.selection``).

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055
    """

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """``(edges, operations)`` shares, each edge on its own."""
        return alphas.softmax(dim=1)
