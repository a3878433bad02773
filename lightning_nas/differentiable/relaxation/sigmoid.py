"""The sigmoid relaxation of FairDARTS."""

from torch import Tensor

from lightning_nas.differentiable.relaxation.base import Relaxation


class Sigmoid(Relaxation):
    """``1 / (1 + exp(-alpha))``: operations of an edge do not compete, each has a factor of its own between 0 and 1.

    It goes with ``ZeroOne``, which drives the factors to 0 or 1, and ``SigmoidScore``.

    References:
        1. Chu, Zhou, Zhang, Li: Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search, ECCV
           2020, https://arxiv.org/abs/1911.12126
    """

    def relax(self, alphas: Tensor) -> Tensor:
        """Map alphas ``(edges, operations)`` to factors of the same shape."""
        return alphas.sigmoid()
