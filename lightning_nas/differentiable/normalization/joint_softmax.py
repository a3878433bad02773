"""One softmax over all operations of all edges of a node."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.supernet import Mixture


def joint_softmax(alphas: Tensor, nodes: Sequence[slice]) -> Tensor:
    """Softmax over all (edge, operation) pairs of each node.

    Args:
        alphas: Alphas ``(edges, operations)``.
        nodes: For every node, the slice of its edges in the rows of the alphas.
    """
    return torch.cat([alphas[edges].flatten().softmax(dim=0).view(-1, alphas.shape[1]) for edges in nodes])


class JointSoftmax(Normalization):
    """Lets all operations of all edges of a node compete in one softmax.

    ``p_(i,o) = softmax over all (edge, operation) pairs of a node (alpha / temperature)``. It takes the place of the
    softmax within an edge, whose temperature it uses, and makes alphas of different edges comparable; ``JointScore``
    reads them.

    A reconstruction: the pipeline that names normalization as a remedy for selection errors (Liu et al., Neural
    Networks 2025) publishes no formula.

    Example:
        ```yaml
        normalization: JointSoftmax
        discretizer: JointScore
        ```
    """

    def check(self, relaxation: Relaxation) -> None:
        """Refuse a relaxation whose place a softmax over the node cannot take.

        Args:
            relaxation: Makes the factors within an edge.

        Raises:
            ConfigError: It is not ``Softmax``.
        """
        if not isinstance(relaxation, Softmax):
            raise ConfigError(
                f"JointSoftmax takes the place of a Softmax relaxation; received {type(relaxation).__name__}. "
                "Use EdgeSoftmax with it."
            )

    def normalize(
        self, alphas: Tensor, edge_alphas: Tensor | None, relaxation: Relaxation, nodes: Sequence[slice]
    ) -> Mixture:
        """Factors of operations, their share in the node, and of edges, the sum over their operations.

        Args:
            alphas: Alphas ``(edges, operations)``.
            edge_alphas: Alphas ``(edges,)`` of the edges; not used.
            relaxation: The softmax whose temperature is used.
            nodes: For every node, the slice of its edges in the rows of the alphas.
        """
        assert isinstance(relaxation, Softmax), "check refuses all others"
        shares = joint_softmax(alphas / relaxation.temperature, nodes)
        return Mixture(shares, shares.sum(dim=1))
