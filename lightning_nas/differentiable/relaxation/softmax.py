"""The softmax relaxation of DARTS."""

from torch import Tensor

from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.errors import ConfigError


class Softmax(Relaxation):
    """``p_o = exp(alpha_o / temperature) / sum_o' exp(alpha_o' / temperature)``, each edge on its own.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Args:
        temperature: Divisor of the alphas, above 0 (DARTS: 1).
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ConfigError(f"temperature is {temperature}; it must be above 0.")
        self.temperature = temperature

    def relax(self, alphas: Tensor) -> Tensor:
        """Map alphas ``(edges, operations)`` to probabilities of the same shape."""
        return (alphas / self.temperature).softmax(dim=1)
