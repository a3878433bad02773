"""What a discretizer is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace


class Discretizer(ABC):
    """Scores the operations of all edges; the space then keeps a node's best edges and an edge's best operation.

    Attributes:
        edge_alphas: Whether the scores need alphas of edges, which only some normalizations train.
    """

    edge_alphas: bool = False

    def check(
        self, space: DifferentiableSpace, relaxation: Relaxation, normalization: Normalization | None = None
    ) -> None:
        """Refuse a search whose alphas this discretizer cannot read.

        Args:
            space: The search space.
            relaxation: Makes the factors within an edge.
            normalization: Makes the factors of different edges comparable; None in DARTS.

        Raises:
            ConfigError: The scores need alphas of edges, which the search does not train.
        """
        if self.edge_alphas and not (normalization is not None and normalization.edge_alphas):
            raise ConfigError(
                f"{type(self).__name__} scores by alphas of edges, which {type(normalization).__name__} does not "
                "train. Use EdgeSoftmax as the normalization, or another discretizer."
            )

    def _check_comparable(
        self, comparable: bool, wanted: str, relaxation: Relaxation, normalization: Normalization | None
    ) -> None:
        """Refuse to compare alphas of different edges that no gradient compares."""
        if not comparable:
            raise ConfigError(
                f"{type(self).__name__} compares alphas of different edges, but {type(relaxation).__name__} with "
                f"{type(normalization).__name__} lets all alphas of an edge rise together, which no gradient sees. "
                f"Use {wanted}, or another discretizer."
            )

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
