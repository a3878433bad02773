"""The interface of discretizers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace


class Discretizer(ABC):
    """Reads an architecture from alphas.

    A discretizer scores every operation of every edge. The space then keeps the best operation of an edge and, where
    nodes keep only some of their inputs, the edges whose kept operations score best. So scores of different edges must
    be comparable, which not every combination of relaxation and normalization gives; ``check`` refuses the others.

    Attributes:
        edge_alphas: Whether the scores need alphas of edges, which only some normalizations train.
        limits_skips: Whether skip connections may have to give way to other operations, however high they score.

    Example:
        ```python
        class LargestAlpha(Discretizer):
            def scores(self, alphas, edge_alphas, nodes):
                return alphas
        ```
    """

    edge_alphas: bool = False
    limits_skips: bool = False

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
        """Scores ``(edges, operations)`` of one cell type; higher is better.

        Args:
            alphas: Alphas ``(edges, operations)``.
            edge_alphas: Alphas ``(edges,)`` of the edges; None if the search trains none.
            nodes: For every node, the slice of its edges in the rows of the alphas.
        """

    def discretize(
        self, alphas: Mapping[str, Tensor], edge_alphas: Mapping[str, Tensor], space: DifferentiableSpace
    ) -> Architecture:
        """The architecture that the alphas stand for.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; they are not changed.
            edge_alphas: Alphas ``(edges,)`` of the edges by cell type; empty if the search trains none.
            space: The search space, which also decides whether ``none`` may be chosen.
        """
        scores = {name: self.scores(a, edge_alphas.get(name), space.nodes) for name, a in alphas.items()}
        return self.select(scores, space)

    def select(self, scores: Mapping[str, Tensor], space: DifferentiableSpace) -> Architecture:
        """The architecture whose operations score best.

        Args:
            scores: Scores ``(edges, operations)`` by cell type; higher is better.
            space: The search space.
        """
        return space.select(scores)
