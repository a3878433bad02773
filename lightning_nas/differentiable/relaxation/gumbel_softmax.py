"""The Gumbel-softmax relaxation of SNAS, and the one of GDAS that computes one operation an edge."""

import copy

import torch
from torch import Tensor

from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.errors import ConfigError


class GumbelSoftmax(Relaxation):
    """``softmax((alpha + g) / temperature)`` with Gumbel noise ``g`` that every training pass draws anew.

    The largest factor is that of operation ``o`` with probability ``softmax(alpha)_o``, at any temperature. The
    temperature goes linearly, epoch by epoch, from ``start`` towards ``end``. Without a draw (validation, selection
    errors, the factors in ``alphas.safetensors``) the factors are ``softmax(alpha)``. All processes draw the same.

    A reconstruction of SNAS: it anneals the temperature, but the text that says how was not at hand.

    References:
        1. Xie, Zheng, Liu, Lin: SNAS: Stochastic Neural Architecture Search, ICLR 2019,
           https://arxiv.org/abs/1812.09926

    Args:
        start: Temperature of the first epoch, above 0.
        end: Temperature after the last epoch, above 0.

    Raises:
        ConfigError: A temperature is not above 0.
    """

    stochastic = True

    def __init__(self, start: float = 1.0, end: float = 0.03) -> None:
        if start <= 0 or end <= 0:
            raise ConfigError(f"start is {start} and end {end}; temperatures must be above 0.")
        self.start = start
        self.end = end
        self.temperature = start
        self.generator: torch.Generator | None = None

    def drawn(self, progress: float, generator: torch.Generator) -> "GumbelSoftmax":
        """The same with noise, at the temperature of an epoch; see ``Relaxation.drawn``."""
        one = copy.copy(self)
        one.temperature = self.start + (self.end - self.start) * progress
        one.generator = generator
        return one

    def relax(self, alphas: Tensor) -> Tensor:
        """Map alphas ``(edges, operations)`` to probabilities, or to a draw, of the same shape."""
        if self.generator is None:
            return alphas.softmax(dim=1)
        # the negative logarithm of an exponential variable is a Gumbel one; on the CPU, alike on every device
        waiting = torch.empty(alphas.shape, dtype=torch.float64).exponential_(generator=self.generator)
        return ((alphas - waiting.log().to(alphas)) / self.temperature).softmax(dim=1)


class HardGumbelSoftmax(GumbelSoftmax):
    """One operation an edge, drawn with the probabilities ``softmax(alpha)``, with the gradient of the soft draw.

    Straight through: the factor is 1 for the operation with the largest factor of ``GumbelSoftmax`` and 0 for the
    others; its gradient with respect to the alphas is that of the soft factors. The supernet computes, and the step
    moves, what was drawn alone: weights of other operations get no gradient, momentum or decay, and their factors no
    gradient of the loss.

    References:
        1. Dong, Yang: Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019,
           https://arxiv.org/abs/1910.04465

    Args:
        start: Temperature of the first epoch, above 0 (the paper: 10).
        end: Temperature after the last epoch, above 0 (the paper: 0.1).
    """

    hard = True

    def __init__(self, start: float = 10.0, end: float = 0.1) -> None:
        super().__init__(start, end)

    def relax(self, alphas: Tensor) -> Tensor:
        """Map alphas ``(edges, operations)`` to probabilities, or to one-hot rows, of the same shape."""
        soft = super().relax(alphas)
        if self.generator is None:
            return soft
        chosen = torch.zeros_like(soft).scatter(1, soft.argmax(dim=1, keepdim=True), 1.0)
        return soft + (chosen - soft).detach()
