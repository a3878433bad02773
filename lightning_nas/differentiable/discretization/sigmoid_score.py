"""The discretization of FairDARTS."""

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.spaces.base import DifferentiableSpace


class SigmoidScore(Discretizer):
    """Score of an operation: its sigmoid, comparable across edges; an edge has the score of its best operation.

    A departure: FairDARTS keeps at most two edges a node, of operations above a threshold of 0.85, possibly several
    operations an edge, or a node without inputs. In spaces where a node keeps a fixed number of edges with one
    operation each, what is above the threshold comes first by its order, and the next best fills up; so there is none.

    References:
        1. Chu, Zhou, Zhang, Li: Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search, ECCV
           2020, https://arxiv.org/abs/1911.12126
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
            ConfigError: The relaxation is not ``Sigmoid``.
        """
        super().check(space, relaxation, normalization)
        self._check_comparable(isinstance(relaxation, Sigmoid), "Sigmoid as the relaxation", relaxation, normalization)

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """``(edges, operations)`` sigmoids."""
        return alphas.double().sigmoid()  # in single precision, sigmoids of large alphas are all 1
