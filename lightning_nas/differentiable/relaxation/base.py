"""What a relaxation is."""

from abc import ABC, abstractmethod

from torch import Tensor


class Relaxation(ABC):
    """Turns the alphas of edges into factors of their operations."""

    @abstractmethod
    def relax(self, alphas: Tensor) -> Tensor:
        """Map alphas ``(edges, operations)`` to factors of the same shape, each edge on its own."""
