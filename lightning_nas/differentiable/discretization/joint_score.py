"""Scores by a softmax over all operations of a node."""

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax, joint_softmax
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.spaces.base import DifferentiableSpace


class JointScore(Discretizer):
    """Scores an operation by its share among all operations of all edges of its node.

    ``s_(i,o) = softmax over all (edge, operation) pairs of a node (alpha)``. The scores are comparable across edges
    and have the order of the alphas, provided that the search made operations of different edges compete; it therefore
    needs ``JointSoftmax`` as the normalization. A reconstruction; see there.

    Example:
        ```yaml
        normalization: JointSoftmax
        discretizer: JointScore
        ```
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
        """Shares ``(edges, operations)`` of every operation in its node."""
        return joint_softmax(alphas, nodes)
