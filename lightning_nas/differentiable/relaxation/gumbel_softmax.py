"""The Gumbel-softmax relaxation of SNAS, and that of GDAS, which computes one operation per edge."""

import copy
from typing import Literal

import torch
from torch import Tensor

from lightning_nas.checks import greater_than, one_of
from lightning_nas.differentiable.relaxation.base import Relaxation


def gumbel_noise(alphas: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel variables of the shape of the alphas, the same whatever device these are on.

    Args:
        alphas: Alphas ``(edges, operations)``.
        generator: Source of the noise, on the CPU.
    """
    # the negative logarithm of an exponential variable is a Gumbel variable
    waiting = torch.empty(alphas.shape, dtype=torch.float64).exponential_(generator=generator)
    return -waiting.log().to(alphas, non_blocking=True)


class GumbelSoftmax(Relaxation):
    """A softmax with Gumbel noise that every training pass draws anew: ``softmax((alpha + g) / temperature)``.

    At any temperature, operation ``o`` has the largest factor with probability ``softmax(alpha)_o``. The temperature
    moves linearly from ``start`` in the first step of the search to ``end`` in the last one, however long the search
    is; the lower it is, the closer the factors come to one operation per edge. Without a draw, as in validation, in
    selection errors and in ``alphas.safetensors``, the factors are ``softmax(alpha)``. All processes draw the same
    noise.

    This is the search of SNAS: in the authors' code the temperature falls linearly, epoch by epoch, from 1 to 0.03 in
    150 epochs. Their penalties on the cost of the cell are not included.

    References:
        1. Xie, Zheng, Liu, Lin: SNAS: Stochastic Neural Architecture Search, ICLR 2019,
           https://arxiv.org/abs/1812.09926

    Args:
        start: Temperature of the first step, greater than 0 (the authors' code: 1).
        end: Temperature of the last step, greater than 0 (the authors' code: 0.03).

    Raises:
        ConfigError: A temperature is not greater than 0.

    Example:
        ```yaml
        relaxation: {class_path: GumbelSoftmax, init_args: {start: 1.0, end: 0.03}}
        ```
    """

    stochastic = True

    def __init__(self, start: float = 1.0, end: float = 0.03) -> None:
        greater_than(0, start=start, end=end)
        self.start = start
        self.end = end
        self.temperature = start
        self.generator: torch.Generator | None = None

    def drawn(self, progress: float, generator: torch.Generator) -> "GumbelSoftmax":
        """A copy that draws noise, at the temperature of a step.

        Args:
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
            generator: Source of the noise, on the CPU; in the same state in all processes.
        """
        one = copy.copy(self)
        one.temperature = self.start + (self.end - self.start) * progress
        one.generator = generator
        return one

    def relax(self, alphas: Tensor) -> Tensor:
        """Factors ``(edges, operations)``, with noise if this is a copy that draws.

        Args:
            alphas: Alphas ``(edges, operations)``.
        """
        if self.generator is None:
            return alphas.softmax(dim=1)
        return ((alphas + gumbel_noise(alphas, self.generator)) / self.temperature).softmax(dim=1)


class HardGumbelSoftmax(GumbelSoftmax):
    """Draws one operation per edge with the probabilities ``softmax(alpha)``, and passes gradients straight through.

    The factor is 1 for the operation with the largest factor of ``GumbelSoftmax`` and 0 for all others; its gradient
    with respect to the alphas is that of the soft factor. The supernet computes only what was drawn, and the step moves
    nothing else: the weights of other operations get no gradient, momentum or weight decay, and their factors no
    gradient of the loss. A step takes a fraction of the time and memory of a full one.

    The authors' code has two gradients of the alphas, for the same values of the supernet:

    - ``chosen``, the default: only the chosen factor of an edge has a gradient, that of the output of its operation. It
      is the one of their search in the DARTS space, and of ``forward_gdas_v1`` in NAS-Bench-201.
    - ``all``: the other factors, which are 0, are also added to every value of the edge, so that each has the sum of
      the node's gradients as its own. It is the one of ``forward_gdas`` in NAS-Bench-201, which their search uses.

    The default is the derivative of what the supernet computes. The sum of a node's gradients says nothing about what
    the other operations would compute, and points in another direction.

    References:
        1. Dong, Yang: Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019,
           https://arxiv.org/abs/1910.04465

    Args:
        start: Temperature of the first step, greater than 0 (the paper: 10).
        end: Temperature of the last step, greater than 0 (the paper: 0.1).
        gradient: Which factors of an edge have a gradient: ``chosen`` or ``all``.

    Raises:
        ConfigError: A temperature is not greater than 0, or there is no such gradient.

    Example:
        ```yaml
        relaxation: {class_path: HardGumbelSoftmax, init_args: {start: 10.0, end: 0.1}}
        ```
    """

    hard = True

    def __init__(self, start: float = 10.0, *, end: float = 0.1, gradient: Literal["chosen", "all"] = "chosen") -> None:
        super().__init__(start, end)
        one_of(("chosen", "all"), gradient=gradient)
        self.gradient = gradient
        self.adds_zeros = gradient == "all"

    def relax(self, alphas: Tensor) -> Tensor:
        """Factors ``(edges, operations)``; one-hot for every edge if this is a copy that draws.

        Args:
            alphas: Alphas ``(edges, operations)``.
        """
        soft = super().relax(alphas)
        if self.generator is None:
            return soft
        chosen = torch.zeros_like(soft).scatter(1, soft.argmax(dim=1, keepdim=True), 1.0)
        return soft + (chosen - soft).detach()
