"""The limit of P-DARTS on skip connections."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace


class SkipCap(Discretizer):
    """Limits the skip connections in a cell: while there are too many, the weakest of them gives way.

    Another discretizer scores the operations. As long as the selected cell has more than ``max_skips`` skip
    connections, the one with the lowest score is set below all other scores, and edges and operations are selected
    again; another operation of the edge, or another edge of the node, takes its place.

    References:
        1. Chen, Xie, Wu, Tian: Progressive Differentiable Architecture Search: Bridging the Depth Gap between Search
           and Evaluation, ICCV 2019, https://arxiv.org/abs/1904.12760

    Args:
        max_skips: Largest number of skip connections in a cell (the paper: 2).
        cell_type: Cell type that is limited (the paper: the normal cell).
        discretizer: Scores the operations; all scores must be non-negative. ``SoftmaxScore`` by default.

    Raises:
        ConfigError: ``max_skips`` is negative.

    Example:
        ```yaml
        discretizer: {class_path: SkipCap, init_args: {max_skips: 2, cell_type: normal}}
        ```
    """

    limits_skips = True

    def __init__(
        self, max_skips: int = 2, *, cell_type: str = "normal", discretizer: Discretizer | None = None
    ) -> None:
        at_least(0, max_skips=max_skips)
        self.max_skips = max_skips
        self.cell_type = cell_type
        self.discretizer = discretizer or SoftmaxScore()
        self.edge_alphas = self.discretizer.edge_alphas

    def check(
        self, space: DifferentiableSpace, relaxation: Relaxation, normalization: Normalization | None = None
    ) -> None:
        """Refuse what the inner discretizer refuses, and a space that cannot keep the limit.

        Args:
            space: The search space.
            relaxation: Makes the factors within an edge.
            normalization: Makes the factors of different edges comparable; None in DARTS.

        Raises:
            ConfigError: The space has no such cells or no skip connections, or every architecture of it has more.
        """
        self.discretizer.check(space, relaxation, normalization)
        columns = _skip_columns(space)
        if self.cell_type not in space.cell_types or not columns:
            raise ConfigError(
                f"SkipCap limits skip connections in the cell type {self.cell_type!r}; the space has the cell types "
                f"{list(space.cell_types)} with {list(space.operations)}. Name one of them, or leave SkipCap out."
            )
        scores = {name: torch.ones(space.edges, len(space.operations)) for name in space.cell_types}
        scores[self.cell_type][:, columns] = -1.0
        fewest = len(self._skips(space.select(scores), space))
        if fewest > self.max_skips:
            raise ConfigError(
                f"max_skips is {self.max_skips}, but every architecture of the space has at least {fewest} skip "
                "connections. Allow other operations, or raise max_skips."
            )

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """Scores ``(edges, operations)`` before any skip connection gives way."""
        return self.discretizer.scores(alphas, edge_alphas, nodes)

    def discretize(
        self, alphas: Mapping[str, Tensor], edge_alphas: Mapping[str, Tensor], space: DifferentiableSpace
    ) -> Architecture:
        """The architecture that the alphas stand for, within the limit.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; they are not changed.
            edge_alphas: Alphas ``(edges,)`` of the edges by cell type; empty if the search trains none.
            space: The search space.
        """
        scores = {
            name: self.scores(a, edge_alphas.get(name), space.nodes).detach().clone() for name, a in alphas.items()
        }
        own = scores[self.cell_type]
        found = space.select(scores)
        # every turn takes another one away, and `check` makes sure that enough other operations are left
        while len(skips := self._skips(found, space)) > self.max_skips:
            own[min(skips, key=lambda place: float(own[place]))] = -1.0
            found = space.select(scores)
        return found

    def _skips(self, architecture: Architecture, space: DifferentiableSpace) -> list[tuple[int, int]]:
        """The edges on which an architecture has skip connections, with their columns."""
        columns = _skip_columns(space)
        return [place for place in space.chosen(architecture)[self.cell_type] if place[1] in columns]


def _skip_columns(space: DifferentiableSpace) -> list[int]:
    return [column for column, operation in enumerate(space.candidates) if operation.is_skip]
