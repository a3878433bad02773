"""The penalty of GOLD-NAS on the expected cost of the architecture."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.supernet import Supernet


class ExpectedCost(Regularizer):
    """Lowers the factors of costly operations.

    ``weight * sum over (edge, operation) of factor * (share + uniform / count)``, over all cell types together. The
    ``share`` of an operation is its fraction of the parameters of all operations, summed over the cells of its type,
    and ``count`` is the number of operations. Both are counted once, in the supernet that the search starts with, so
    that removed operations lower the penalty. ``uniform`` makes operations without parameters cost something too.

    The relaxation must let all factors of an edge fall. Under a softmax their sum is fixed, so that the penalty could
    only move cost from one operation to another; use ``Sigmoid``. ``GradualPruning`` raises and lowers the weight.

    A reconstruction: the paper counts FLOPs, with two functions of them; here it is parameters plus the uniform term.

    References:
        1. Bi, Xie, Chen, Wei, Tian: GOLD-NAS: Gradual, One-Level, Differentiable, 2020, https://arxiv.org/abs/2007.03331

    Attributes:
        weight: Present factor of the penalty.
        costs: Cost of every operation, ``(edges, operations)`` by cell type; empty before a model is attached, when
            nothing costs anything.

    Args:
        weight: Factor of the penalty at the start, at least 0.
        uniform: Cost of all operations together that does not depend on their parameters, at least 0.

    Raises:
        ConfigError: A number is negative.

    Example:
        ```yaml
        relaxation: Sigmoid
        regularizers: [{class_path: ExpectedCost, init_args: {weight: 0.1}}]
        ```
    """

    def __init__(self, weight: float = 0.1, uniform: float = 1.0) -> None:
        at_least(0, weight=weight, uniform=uniform)
        self.weight = weight
        self.uniform = uniform
        self.relaxation: Relaxation = Sigmoid()
        self.costs: dict[str, Tensor] = {}

    def attach(self, model: SearchModel) -> None:
        """Count the costs of the operations, unless that was done before.

        Args:
            model: The model of the search.

        Raises:
            ConfigError: The factors of an edge have a fixed sum.
        """
        self.relaxation = model.relaxation
        probe = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
        if torch.allclose(self.relaxation.relax(probe).sum(1), torch.ones(2)):
            raise ConfigError(
                f"ExpectedCost lowers factors, but those of {type(self.relaxation).__name__} sum to 1 on every edge. "
                "Use Sigmoid as the relaxation, or leave ExpectedCost out."
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
        """The term of the alphas' loss, a scalar; operations that the space does not allow have the factor 0.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; ``-inf`` where the space does not allow an operation.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last; not used.
        """
        free = torch.zeros(())
        costs = {name: self.costs.get(name, free).to(a, non_blocking=True) for name, a in alphas.items()}
        terms = [(self.relaxation.relax(a) * costs[name]).sum() for name, a in alphas.items()]
        return self.weight * torch.stack(terms).sum()

    def state_dict(self) -> dict[str, Any]:
        """The weight, and the costs of the supernet that the search started with."""
        return {"weight": self.weight, "costs": dict(self.costs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: The state.
        """
        self.weight, self.costs = state["weight"], dict(state["costs"])
