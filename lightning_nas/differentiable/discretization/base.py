"""What a discretizer is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.spaces.base import DifferentiableSpace


class Discretizer(ABC):
    """Scores the operations of all edges; the space then keeps a node's best edges and an edge's best operation.

    Attributes:
        edge_alphas: Whether the scores need alphas of edges, which only some normalizations train.
    """

    edge_alphas: bool = False

    def check(self, space: DifferentiableSpace) -> None:
        """Look at the space that is to be discretized; by default any will do.

        Raises:
            ConfigError: This discretizer cannot serve it.
        """
        return

    @abstractmethod
    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """Scores of one cell type, the higher the better.

        Args:
            alphas: ``(edges, operations)``.
            edge_alphas: ``(edges,)``, or None where the search has none.
            nodes: The rows of every node's edges.
        """

    def discretize(
        self, alphas: Mapping[str, Tensor], edge_alphas: Mapping[str, Tensor], space: DifferentiableSpace
    ) -> Architecture:
        """The architecture that the alphas stand for; pure and quick.

        Args:
            alphas: ``(edges, operations)`` a cell type.
            edge_alphas: ``(edges,)`` a cell type; empty where the search has none.
            space: The space to choose in; whether ``none`` may be chosen is the space's.
        """
        return space.select({name: self.scores(a, edge_alphas.get(name), space.nodes) for name, a in alphas.items()})
