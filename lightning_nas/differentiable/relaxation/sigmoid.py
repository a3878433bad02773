"""The sigmoid relaxation of FairDARTS."""

from torch import Tensor

from lightning_nas.differentiable.relaxation.base import Relaxation


class Sigmoid(Relaxation):
    """A sigmoid of every alpha on its own, ``1 / (1 + exp(-alpha))``: operations of an edge do not compete.

    ``ZeroOne`` drives the factors to 0 or 1, and ``SigmoidScore`` reads the architecture from them.

    References:
        1. Chu, Zhou, Zhang, Li: Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search, ECCV
           2020, https://arxiv.org/abs/1911.12126

    Example:
        ```yaml
        relaxation: Sigmoid
        discretizer: SigmoidScore
        regularizers: [ZeroOne]
        ```
    """

    def relax(self, alphas: Tensor) -> Tensor:
        """Factors ``(edges, operations)`` between 0 and 1.

        Args:
            alphas: Alphas ``(edges, operations)``.
        """
        return alphas.sigmoid()
