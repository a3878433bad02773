"""Edge normalization of PC-DARTS."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.spaces.base import Mixture


def node_softmax(edge_alphas: Tensor, nodes: Sequence[slice]) -> Tensor:
    """Softmax of ``(edges,)`` over the edges of each node."""
    return torch.cat([edge_alphas[edges].softmax(dim=0) for edges in nodes])


class EdgeSoftmax(Normalization):
    """One more alpha an edge, softmaxed over the edges of its node: ``x_j = sum_i softmax(beta)_ij f_ij(x_i)``.

    References:
        1. Xu et al.: PC-DARTS: Partial Channel Connections, ICLR 2020, https://arxiv.org/abs/1907.05737
    """

    edge_alphas = True

    def normalize(
        self, alphas: Tensor, edge_alphas: Tensor | None, relaxation: Relaxation, nodes: Sequence[slice]
    ) -> Mixture:
        """Factor of an operation: its edge's share in the node times its share in the edge."""
        assert edge_alphas is not None, "the task makes edge alphas for this class"
        share = node_softmax(edge_alphas, nodes)
        return Mixture(share[:, None] * relaxation.relax(alphas), share)
