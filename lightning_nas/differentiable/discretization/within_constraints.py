"""Discretization under constraints on cost."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.checks import greater_than
from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.cost import CostSource
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.constrained import ConstrainedSpace


class WithinConstraints(Discretizer):
    """Reads the best-scored architecture that keeps constraints on cost, starting from that of another discretizer.

    Where the other discretizer's architecture costs too much, it is repaired by single changes. Each change goes to the
    neighbour that loses the least score per reduction of the excess, which is the largest ratio of a cost to its bound;
    the score of an architecture is the sum of the scores of its operations. Cells without a path from an input to the
    output are passed over. As soon as all constraints are kept, changes to better neighbours within the constraints
    follow, until there is none: a local optimum. The supernet itself is searched without constraints.

    Args:
        discretizer: Scores the operations, and selects an architecture without constraints; ``SoftmaxScore`` by
            default.
        costs: Knows the costs of an architecture; by default ``NetworkCosts`` with its defaults.
        constraints: Largest values of costs by their names, greater than 0; without any, the other discretizer decides
            alone.

    Raises:
        ConfigError: A bound is not greater than 0.

    Example:
        ```yaml
        discretizer:
          class_path: WithinConstraints
          init_args:
            discretizer: ProductScore
            costs: {class_path: NetworkCosts, init_args: {channels: 36, cells: 20}}
            constraints: {parameters: 3.5e+6}
        ```
    """

    def __init__(
        self,
        discretizer: Discretizer | None = None,
        *,
        costs: CostSource | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> None:
        self.discretizer = discretizer or SoftmaxScore()
        self.costs = costs or NetworkCosts()
        self.constraints = dict(constraints or {})
        greater_than(0, **{f"constraints[{name!r}]": bound for name, bound in self.constraints.items()})
        self.edge_alphas = self.discretizer.edge_alphas
        self.limits_skips = self.discretizer.limits_skips

    def check(
        self, space: DifferentiableSpace, relaxation: Relaxation, normalization: Normalization | None = None
    ) -> None:
        """Refuse what the other discretizer refuses, and constraints on unknown costs; see ``Discretizer.check``."""
        self.discretizer.check(space, relaxation, normalization)
        if self.constraints:
            limited = ConstrainedSpace(space, self.costs.costs, self.constraints)
            limited.excess(space.sample(torch.Generator().manual_seed(0)))

    def scores(self, alphas: Tensor, edge_alphas: Tensor | None, nodes: Sequence[slice]) -> Tensor:
        """The scores of the other discretizer; see ``Discretizer.scores``."""
        return self.discretizer.scores(alphas, edge_alphas, nodes)

    def discretize(
        self, alphas: Mapping[str, Tensor], edge_alphas: Mapping[str, Tensor], space: DifferentiableSpace
    ) -> Architecture:
        """The architecture that the alphas stand for, within the constraints; see ``Discretizer.discretize``.

        Raises:
            ConfigError: The repair ends before the constraints are kept.
        """
        scores = {name: self.scores(a, edge_alphas.get(name), space.nodes) for name, a in alphas.items()}
        return self._within(self.discretizer.discretize(alphas, edge_alphas, space), scores, space)

    def select(self, scores: Mapping[str, Tensor], space: DifferentiableSpace) -> Architecture:
        """The architecture whose operations score best within the constraints; see ``Discretizer.select``.

        Raises:
            ConfigError: The repair ends before the constraints are kept.
        """
        return self._within(self.discretizer.select(scores, space), scores, space)

    def _within(self, current: Architecture, scores: Mapping[str, Tensor], space: DifferentiableSpace) -> Architecture:
        if not self.constraints:
            return current
        limited = ConstrainedSpace(space, self.costs.costs, self.constraints)

        def total(architecture: Architecture) -> float:
            chosen = space.chosen(architecture)
            return sum(float(scores[name][place]) for name, places in chosen.items() for place in places)

        while (excess := limited.excess(current)) > 1:
            cheaper = [(n, limited.excess(n)) for n in space.neighbours(current)]
            cheaper = [(n, e) for n, e in cheaper if e < excess and limited.connected(n)]
            if not cheaper:
                raise ConfigError(
                    f"The search's architecture {space.text(current)} exceeds the constraints {self.constraints}, and "
                    "no change of one of its operations comes closer to them. Relax the constraints."
                )
            here = total(current)
            current = min(cheaper, key=lambda each: (here - total(each[0])) / (excess - each[1]))[0]
        return limited.climb(current, total)
