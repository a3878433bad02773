"""What a regularizer of alphas is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor


class Regularizer(ABC):
    """A term of the loss that the alphas minimise."""

    @abstractmethod
    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term, a scalar.

        Args:
            alphas: ``(edges, operations)`` a cell type; ``-inf`` where the space does not allow an operation.
            progress: The share of the search's epochs that is over, from 0 to 1.
        """
