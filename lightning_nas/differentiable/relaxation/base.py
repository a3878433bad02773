"""What a relaxation is."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Relaxation(ABC):
    """Turns the alphas of edges into factors of their operations.

    Attributes:
        stochastic: Whether ``drawn`` draws at random, so that two passes of one step differ.
        hard: Whether factors of zero mean that an operation is not computed at all.
    """

    stochastic: bool = False
    hard: bool = False

    @abstractmethod
    def relax(self, alphas: Tensor) -> Tensor:
        """Map alphas ``(edges, operations)`` to factors of the same shape, each edge on its own."""

    def drawn(self, progress: float, generator: torch.Generator) -> "Relaxation":
        """What one forward pass of a training step relaxes with; by default this.

        Args:
            progress: The share of the search's epochs that is over, from 0 to 1.
            generator: Source of all draws, on the CPU; the same one in all processes.
        """
        return self
