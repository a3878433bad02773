"""The discretization of PC-DARTS."""

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.normalization.edge_softmax import node_softmax


class ProductScore(Discretizer):
    """Score of an operation: its share within the edge times the edge's share within the node.

    Comparable across edges. It needs a normalization that trains alphas of edges (``EdgeSoftmax``).

    References:
        1. Xu et al.: PC-DARTS: Partial Channel Connections, ICLR 2020, https://arxiv.org/abs/1907.05737
    """

    edge_alphas = True

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """``(edges, operations)`` shares of the node."""
        assert edge_alphas is not None, "the task checks that there are edge alphas"
        return node_softmax(edge_alphas, nodes)[:, None] * alphas.softmax(dim=1)
