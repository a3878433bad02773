"""The interface of normalizations across edges."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.spaces.supernet import Mixture


class Normalization(ABC):
    """Makes the factors of different edges comparable. DARTS has no normalization: the factors of each edge sum to 1.

    Attributes:
        edge_alphas: Whether the search trains one more alpha per edge, which ``normalize`` receives.

    Example:
        ```python
        class EqualEdges(Normalization):
            def normalize(self, alphas, edge_alphas, relaxation, nodes):
                share = torch.cat([alphas.new_full((e.stop - e.start,), 1 / (e.stop - e.start)) for e in nodes])
                return Mixture(share[:, None] * relaxation.relax(alphas), share)
        ```
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

        What passes an edge beside its operations (``Mixture.edges``) gets the sum of the factors of the operations.

        Args:
            alphas: Alphas ``(edges, operations)``.
            edge_alphas: Alphas ``(edges,)`` of the edges; None if the search trains none.
            relaxation: Makes the factors within an edge.
            nodes: For every node, the slice of its edges in the rows of the alphas.
        """
