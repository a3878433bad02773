"""GOLD-NAS's penalty on what the supernet costs as it is weighted now."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace, Supernet


class ExpectedCost(Regularizer):
    """``weight * sum over (edge, operation) of factor * (share + uniform / count)``, over all cell types together.

    ``share`` is the operation's part of the parameters that all operations have, summed over the cells of its type, and
    ``count`` the number of operations; both are of the supernet that the search began with, so that what is pruned
    lowers the penalty. ``uniform`` makes operations without parameters cost something, too. Of a factor's gradient
    nothing is left where the relaxation has it fixed, as a softmax has their sum: it needs ``Sigmoid``, or another one
    whose factors can all fall. Before a search has it, nothing costs anything. ``GradualPruning`` raises and lowers the
    weight.

    A reconstruction: the paper counts FLOPs, with two functions of them; here it is parameters, plus the uniform term.

    References:
        1. Bi, Xie, Chen, Wei, Tian: GOLD-NAS: Gradual, One-Level, Differentiable, 2020, https://arxiv.org/abs/2007.03331

    Attributes:
        weight: Factor of the penalty now.

    Args:
        weight: At the start, at least 0.
        uniform: What all operations together cost beside their parameters, at least 0.

    Raises:
        ConfigError: A number is negative.
    """

    def __init__(self, weight: float = 0.1, uniform: float = 1.0) -> None:
        if weight < 0 or uniform < 0:
            raise ConfigError(f"weight is {weight}, uniform {uniform}; they must be at least 0.")
        self.weight = weight
        self.uniform = uniform
        self.relaxation: Relaxation = Sigmoid()
        self.costs: dict[str, Tensor] = {}

    def attach(self, model: SearchModel) -> None:
        """Count what the operations cost, once.

        Raises:
            ConfigError: The factors of an edge have a fixed sum.
        """
        self.relaxation = model.relaxation
        probe = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
        if torch.allclose(self.relaxation.relax(probe).sum(1), torch.ones(2)):
            raise ConfigError(
                f"ExpectedCost lowers factors, but those of {type(self.relaxation).__name__} have the sum 1 on every "
                "edge. Use Sigmoid as the relaxation, or leave ExpectedCost out."
            )
        if not self.costs:
            self.costs = self._counted(model.space, model.supernet)

    def _counted(self, space: DifferentiableSpace, supernet: Supernet) -> dict[str, Tensor]:
        own = {name for name, _ in supernet.named_parameters()}
        sizes = {name: torch.zeros(space.edges, len(space.operations)) for name in space.cell_types}
        for public, name, _, _, shape in supernet.per_edge():
            at = supernet.owner(public)
            if at is not None and name in own:
                cell, edge, operation = at
                sizes[cell][edge, operation] += prod(shape)
        total = sum(float(size.sum()) for size in sizes.values()) or 1.0
        count = sum(int(allowed.sum()) for allowed in space.allowed.values())
        return {name: size / total + self.uniform / count for name, size in sizes.items()}

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term, a scalar; what the space does not allow has the factor 0."""
        free = torch.zeros(())
        terms = [(self.relaxation.relax(a) * self.costs.get(name, free).to(a)).sum() for name, a in alphas.items()]
        return self.weight * torch.stack(terms).sum()

    def state_dict(self) -> dict[str, Any]:
        """The weight, and the costs of the supernet that the search began with."""
        return {"weight": self.weight, "costs": dict(self.costs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Regularizer.state_dict``."""
        self.weight, self.costs = state["weight"], dict(state["costs"])
