"""The scores of DARTS."""

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.discretization.base import Discretizer


class SoftmaxScore(Discretizer):
    """Scores an operation by its softmaxed share within its own edge.

    ``s_(i,o) = softmax over the operations (alpha_i)_o``; the operation ``none`` takes part in the softmax even if it
    cannot be chosen. The shares of every edge sum to 1 whatever the edge contributes, so comparing the edges of a node
    by them is a source of selection errors (``lightning_nas.metrics.selection``).

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Example:
        ```yaml
        discretizer: SoftmaxScore
        ```
    """

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """Shares ``(edges, operations)``; those of every edge sum to 1."""
        return alphas.softmax(dim=1)
