"""Discretization by a softmax over the whole node."""

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax, joint_softmax
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.spaces.base import DifferentiableSpace


class JointScore(Discretizer):
    """Score of an operation: its share among all operations of all edges of its node.

    Comparable across edges, in the order of the raw alphas. It goes with ``JointSoftmax``. A reconstruction, see there.
    """

    def check(
        self, space: DifferentiableSpace, relaxation: Relaxation, normalization: Normalization | None = None
    ) -> None:
        """Refuse a search that does not train alphas of different edges against each other.

        Args:
            space: The search space.
            relaxation: Makes the factors within an edge.
            normalization: Makes the factors of different edges comparable; None in DARTS.

        Raises:
            ConfigError: The normalization is not ``JointSoftmax``.
        """
        super().check(space, relaxation, normalization)
        self._check_comparable(
            isinstance(normalization, JointSoftmax), "JointSoftmax as the normalization", relaxation, normalization
        )

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """``(edges, operations)`` shares of the node."""
        return joint_softmax(alphas, nodes)
