"""The interface of relaxations."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_nas.differentiable.runner import Compile
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.supernet import Supernet


class Relaxation(ABC):
    """Turns the alphas of an edge into the factors of its operations.

    Attributes:
        stochastic: Whether ``drawn`` draws at random, so that two passes of one step differ.
        hard: Whether an operation with the factor 0 is not computed at all.
        adds_zeros: Whether the factors of operations that are not computed, which are 0, are added to every value of
            what the edge makes; this changes no value, but gives each of them a gradient.

    Example:
        ```python
        class Squares(Relaxation):
            def relax(self, alphas):
                return alphas.square() / alphas.square().sum(dim=1, keepdim=True)
        ```
    """

    stochastic: bool = False
    hard: bool = False
    adds_zeros: bool = False

    def check(self, compile: Compile) -> None:
        """Refuse what this relaxation does not go with.

        Args:
            compile: How the supernet is compiled; see ``SupernetRunner``.

        Raises:
            ConfigError: Operations with the factor 0 are not computed, but the supernet is compiled.
        """
        if not self.hard:
            return
        if compile is not False:
            raise ConfigError(
                f"{type(self).__name__} computes other operations in every step, and compile: {compile} would compile "
                "a program for each combination of them. Use compile: false."
            )

    def attach(self, space: DifferentiableSpace, *, normalized: bool) -> None:
        """Look at the space of the search, when the model is built; by default nothing happens.

        Args:
            space: The search space.
            normalized: Whether a normalization makes factors of different edges comparable.

        Raises:
            ConfigError: They do not go together.
        """
        return

    def check_supernet(self, supernet: Supernet) -> None:
        """Refuse a supernet that cannot compute what this relaxation needs.

        Args:
            supernet: The supernet of the search.

        Raises:
            ConfigError: The supernet does not add the factors of operations that are not computed.
        """
        if self.adds_zeros and not supernet.adds_constants:
            raise ConfigError(
                f"{type(self).__name__} adds the factors of all operations to the edges, but {type(supernet).__name__} "
                "does not follow Mixture.constants. Use gradient: chosen, or another space."
            )

    @abstractmethod
    def relax(self, alphas: Tensor) -> Tensor:
        """Factors ``(edges, operations)``; those of an edge depend on its own alphas only.

        Args:
            alphas: Alphas ``(edges, operations)``.
        """

    def drawn(self, progress: float, generator: torch.Generator) -> "Relaxation":
        """The relaxation of one forward pass of a training step; this one by default.

        Args:
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
            generator: Source of all random draws, on the CPU; in the same state in all processes.
        """
        return self
