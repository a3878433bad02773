"""The ReinMax relaxation."""

import copy

import torch
from torch import Tensor

from lightning_nas.checks import greater_than
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.gumbel_softmax import gumbel_noise


class ReinMax(Relaxation):
    """Draws one operation per edge with the probabilities ``softmax(alpha)``, with a gradient of second order.

    The factor is 1 for the drawn operation and 0 for all others. With ``p = softmax(alpha)``, the drawn one-hot ``d``
    and ``q = (d + softmax(alpha / temperature)) / 2``, the gradient is that of ``2 q' - p / 2``, where ``q'`` is ``q``
    as a softmax of the alphas. At temperature 1 it is the trapezoidal rule: without bias where the loss is quadratic in
    the factors, while the straight-through estimator is so only where it is linear. Without a draw, as in validation,
    in selection errors and in ``alphas.safetensors``, the factors are ``softmax(alpha)``. All processes draw the same.

    The gradient needs the outputs of all operations, so that all of them are computed, as in DARTS; their weights have
    a zero gradient where the factor is 0. The paper trains autoencoders and does not search an architecture of cells.

    References:
        1. Liu, Dong, Liu, Yu, Gao: Bridging Discrete and Backpropagation: Straight-Through and Beyond, NeurIPS 2023,
           https://arxiv.org/abs/2304.08612

    Args:
        temperature: Divisor of the alphas in ``q``, greater than 0 (the paper: 1 or a little more).

    Raises:
        ConfigError: ``temperature`` is not greater than 0.

    Example:
        ```yaml
        relaxation: {class_path: ReinMax, init_args: {temperature: 1.0}}
        ```
    """

    stochastic = True

    def __init__(self, temperature: float = 1.0) -> None:
        greater_than(0, temperature=temperature)
        self.temperature = temperature
        self.generator: torch.Generator | None = None

    def drawn(self, progress: float, generator: torch.Generator) -> "ReinMax":
        """A copy that draws.

        Args:
            progress: Fraction of the search that is over; not used.
            generator: Source of the draws, on the CPU; in the same state in all processes.
        """
        one = copy.copy(self)
        one.generator = generator
        return one

    def relax(self, alphas: Tensor) -> Tensor:
        """Factors ``(edges, operations)``; one-hot for every edge if this is a copy that draws.

        Args:
            alphas: Alphas ``(edges, operations)``.
        """
        shares = alphas.softmax(dim=1)
        if self.generator is None:
            return shares
        noisy = alphas + gumbel_noise(alphas, self.generator)
        chosen = torch.zeros_like(alphas).scatter(1, noisy.argmax(dim=1, keepdim=True), 1.0)
        middle = (chosen + (alphas / self.temperature).softmax(dim=1)) / 2
        # the softmax of the alphas with this shift, a constant, is the middle; -inf stays -inf
        shift = torch.where(alphas.isfinite(), middle.log() - alphas, 0.0).detach()
        surrogate = 2 * (alphas + shift).softmax(dim=1) - shares / 2
        return chosen + (surrogate - surrogate.detach())
