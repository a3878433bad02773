"""What a relaxation is."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_nas.differentiable.runner import Compile
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.attention import Attention


class Relaxation(ABC):
    """Turns the alphas of edges into factors of their operations.

    Attributes:
        stochastic: Whether ``drawn`` draws at random, so that two passes of one step differ.
        hard: Whether factors of zero mean that an operation is not computed at all.
    """

    stochastic: bool = False
    hard: bool = False

    def check(self, attention: Attention | None, compile: Compile) -> None:
        """Refuse what this relaxation does not go with.

        Args:
            attention: Attention inside the supernet, if there is any.
            compile: How the supernet is compiled; see ``SupernetRunner``.

        Raises:
            ConfigError: Operations with the factor 0 are not computed, but the supernet is compiled or has attention
                over operations.
        """
        if not self.hard:
            return
        if compile is not False:
            raise ConfigError(
                f"{type(self).__name__} computes other operations in every step, and compile: {compile} would compile "
                "a program for each combination of them. Use compile: false."
            )
        if attention is not None and attention.operation_scores(1, 1) is not None:
            raise ConfigError(
                f"{type(attention).__name__} weights the operations of an edge against each other, but "
                f"{type(self).__name__} computes only one of them. Leave the attention out, or use another relaxation."
            )

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
