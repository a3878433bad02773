"""Discretization by a softmax over the whole node."""

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.normalization.joint_softmax import joint_softmax


class JointScore(Discretizer):
    """Score of an operation: its share among all operations of all edges of its node.

    Comparable across edges, in the order of the raw alphas. It goes with ``JointSoftmax``. A reconstruction, see there.
    """

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """``(edges, operations)`` shares of the node."""
        return joint_softmax(alphas, nodes)
