"""Edge normalization of PC-DARTS."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.spaces.supernet import Mixture


def node_softmax(edge_alphas: Tensor, nodes: Sequence[slice]) -> Tensor:
    """Softmax over the edges of each node.

    Args:
        edge_alphas: Alphas ``(edges,)`` of the edges.
        nodes: For every node, the slice of its edges.
    """
    return torch.cat([edge_alphas[edges].softmax(dim=0) for edges in nodes])


class EdgeSoftmax(Normalization):
    """Gives every edge an alpha of its own, with a softmax over the edges of a node.

    The state of node j is ``x_j = sum_i softmax(beta)_ij f_ij(x_i)``, where ``f_ij`` is the mixture of the edge's
    operations: the factor of an operation is the share of its edge in the node times its share in the edge. The edge
    alphas ``beta`` are trained by the optimizer of the alphas; ``ProductScore`` reads them.

    References:
        1. Xu et al.: PC-DARTS: Partial Channel Connections, ICLR 2020, https://arxiv.org/abs/1907.05737

    Example:
        ```yaml
        normalization: EdgeSoftmax
        discretizer: ProductScore
        ```
    """

    edge_alphas = True

    def normalize(
        self, alphas: Tensor, edge_alphas: Tensor | None, relaxation: Relaxation, nodes: Sequence[slice]
    ) -> Mixture:
        """Factors of operations, their share in the edge times its share in the node, and shares of edges.

        Args:
            alphas: Alphas ``(edges, operations)``.
            edge_alphas: Alphas ``(edges,)`` of the edges.
            relaxation: Makes the factors within an edge.
            nodes: For every node, the slice of its edges in the rows of the alphas.
        """
        assert edge_alphas is not None, "the model makes edge alphas for this class"
        share = node_softmax(edge_alphas, nodes)
        return Mixture(share[:, None] * relaxation.relax(alphas), share)
