"""The softmax relaxation of DARTS."""

from torch import Tensor

from lightning_nas.checks import greater_than
from lightning_nas.differentiable.relaxation.base import Relaxation


class Softmax(Relaxation):
    """Softmax over the operations of an edge.

    ``p_o = exp(alpha_o / temperature) / sum_o' exp(alpha_o' / temperature)``, so that the factors of an edge sum to 1.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Args:
        temperature: Divisor of the alphas, greater than 0 (DARTS: 1).

    Raises:
        ConfigError: ``temperature`` is not greater than 0.

    Example:
        ```yaml
        relaxation: {class_path: Softmax, init_args: {temperature: 1.0}}
        ```
    """

    def __init__(self, temperature: float = 1.0) -> None:
        greater_than(0, temperature=temperature)
        self.temperature = temperature

    def relax(self, alphas: Tensor) -> Tensor:
        """Factors ``(edges, operations)``; those of every edge sum to 1.

        Args:
            alphas: Alphas ``(edges, operations)``.
        """
        return (alphas / self.temperature).softmax(dim=1)
