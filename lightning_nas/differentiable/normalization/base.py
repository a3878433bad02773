"""What a normalization across edges is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.spaces.base import Mixture


class Normalization(ABC):
    """Makes the factors of different edges comparable. DARTS has none: each edge has the mass 1.

    Attributes:
        edge_alphas: Whether the search trains one more alpha an edge, which ``normalize`` receives.
    """

    edge_alphas: bool = False

    def check(self, relaxation: Relaxation) -> None:
        """Refuse a relaxation that this normalization does not go with; by default it goes with every relaxation.

        Args:
            relaxation: Makes the factors within an edge.

        Raises:
            ConfigError: The two do not go together.
        """
        return

    @abstractmethod
    def normalize(
        self, alphas: Tensor, edge_alphas: Tensor | None, relaxation: Relaxation, nodes: Sequence[slice]
    ) -> Mixture:
        """Turn the alphas of one cell type into the factors of its operations and edges.

        Args:
            alphas: ``(edges, operations)``.
            edge_alphas: ``(edges,)``, or None where the class attribute says that there are none.
            relaxation: What makes factors within an edge.
            nodes: The rows of every node's edges.
        """
