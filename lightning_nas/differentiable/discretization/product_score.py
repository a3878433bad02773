"""The scores of PC-DARTS."""

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.normalization.edge_softmax import node_softmax


class ProductScore(Discretizer):
    """Scores an operation by its share within the edge times the share of the edge within its node.

    ``s_(i,o) = softmax over the edges of the node (beta)_i * softmax over the operations (alpha_i)_o``. The scores are
    comparable across edges. They need a normalization that trains alphas of edges, such as ``EdgeSoftmax``.

    References:
        1. Xu et al.: PC-DARTS: Partial Channel Connections, ICLR 2020, https://arxiv.org/abs/1907.05737

    Example:
        ```yaml
        normalization: EdgeSoftmax
        discretizer: ProductScore
        ```
    """

    edge_alphas = True

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """Shares ``(edges, operations)`` of every operation in its node."""
        assert edge_alphas is not None, "check refuses searches without edge alphas"
        return node_softmax(edge_alphas, nodes)[:, None] * alphas.softmax(dim=1)
