"""The scores of FairDARTS."""

from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.spaces.base import DifferentiableSpace


class SigmoidScore(Discretizer):
    """Scores an operation by the sigmoid of its alpha; an edge has the score of its best operation.

    ``s_(i,o) = 1 / (1 + exp(-alpha_(i,o)))``. Sigmoids do not compete, so the scores are comparable across edges. They
    need ``Sigmoid`` as the relaxation.

    A departure from the paper: FairDARTS keeps at most two edges per node, of operations above a threshold of 0.85,
    which can leave several operations on an edge or a node without inputs. Here a node keeps a fixed number of edges
    with one operation each. What is above a threshold would come first by its score anyway, and the next best fills
    up, so there is no threshold.

    References:
        1. Chu, Zhou, Zhang, Li: Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search, ECCV
           2020, https://arxiv.org/abs/1911.12126

    Example:
        ```yaml
        relaxation: Sigmoid
        discretizer: SigmoidScore
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
            ConfigError: The relaxation is not ``Sigmoid``.
        """
        super().check(space, relaxation, normalization)
        self._check_comparable(isinstance(relaxation, Sigmoid), "Sigmoid as the relaxation", relaxation, normalization)

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """Sigmoids ``(edges, operations)`` in double precision."""
        return alphas.double().sigmoid()  # in single precision, the sigmoids of all large alphas are 1
