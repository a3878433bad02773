"""The Dirichlet relaxation of DrNAS."""

import copy

import torch
from torch import Tensor

from lightning_nas.differentiable.relaxation.base import Relaxation


def concentrations(alphas: Tensor) -> Tensor:
    """The concentrations ``elu(alpha) + 1`` of the Dirichlet distributions of DrNAS, 0 where an alpha is ``-inf``.

    They are computed as ``1 + alpha`` or ``exp(alpha)``, which is more exact for small ones, and are at least the
    precision of the numbers, so that every distribution exists.

    Args:
        alphas: Alphas ``(edges, operations)``.
    """
    allowed = alphas.isfinite()
    given = alphas.masked_fill(~allowed, 0.0)
    found = torch.where(given > 0, 1 + given, given.clamp(max=0).exp()).clamp(min=torch.finfo(alphas.dtype).eps)
    return found.masked_fill(~allowed, 0.0)


class Dirichlet(Relaxation):
    """Factors that every training pass draws from a Dirichlet distribution per edge: ``Dir(elu(alpha) + 1)``.

    The draws explore: a concentration of 1, that of an alpha of 0, makes all mixtures equally likely, higher ones bring
    the factors closer to their mean. Gradients go through the draw (implicit reparameterization). Without a draw, as in
    validation, in selection errors and in ``alphas.safetensors``, the factors are the mean of the distribution, the
    concentrations divided by their sum. ``DirichletAnchor`` or the weight decay of the alphas keeps the distribution
    close to the uniform one. All processes draw the same factors, but a GPU draws others than a CPU.

    The progressive part of the paper, a second phase with wider partial channels and fewer operations, is not included.

    References:
        1. Chen, Wang, Cheng, Tang, Hsieh: DrNAS: Dirichlet Neural Architecture Search, ICLR 2021,
           https://arxiv.org/abs/2006.10355

    Example:
        ```yaml
        relaxation: Dirichlet
        regularizers: [{class_path: DirichletAnchor, init_args: {weight: 0.001}}]
        ```
    """

    stochastic = True

    def __init__(self) -> None:
        self.generator: torch.Generator | None = None

    def drawn(self, progress: float, generator: torch.Generator) -> "Dirichlet":
        """A copy that draws.

        Args:
            progress: Fraction of the search that is over; not used.
            generator: Seeds the draw, on the CPU; in the same state in all processes.
        """
        one = copy.copy(self)
        one.generator = generator
        return one

    def relax(self, alphas: Tensor) -> Tensor:
        """Factors ``(edges, operations)``; those of every edge sum to 1.

        Args:
            alphas: Alphas ``(edges, operations)``.
        """
        concentration = concentrations(alphas)
        if self.generator is None:
            return concentration / concentration.sum(dim=1, keepdim=True)
        allowed = concentration > 0
        positive = torch.where(allowed, concentration, torch.finfo(alphas.dtype).eps)
        seed = int(torch.randint(2**62, (), generator=self.generator))
        devices = [alphas.device] if alphas.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            factors: Tensor = torch.distributions.Dirichlet(positive, validate_args=False).rsample()
        return factors.masked_fill(~allowed, 0.0)
