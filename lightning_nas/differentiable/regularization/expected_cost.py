"""The penalty of GOLD-NAS on the operations that are left, and on their cost."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.checks import at_least, within
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.cost import macs
from lightning_nas.spaces.cell_space import CellSpace
from lightning_nas.spaces.per_edge import PerEdgeCell
from lightning_nas.spaces.supernet import Mixture


class ExpectedCost(Regularizer):
    """Drives operations out of their nodes, costly ones first.

    ``weight * sum over (cell, edge, operation) of log(1 + n * share) * (1 + mu * cost)``. The ``share`` of an operation
    is its factor by the sum of the factors of all operations on all edges into its node, ``n`` is the number of
    operations of the node whose share is above ``floor``, and the others pay nothing. ``cost`` is the number of
    multiply-accumulates of the operation for one image, in millions. Costs are counted once, in the supernet that the
    search starts with, so that removed operations lower the penalty.

    Since the logarithm is concave, shares fall apart under the penalty. The relaxation must let all factors of an edge
    fall, which those of a softmax cannot: use ``Sigmoid``. ``GradualPruning`` removes what has lost its share, and
    moves the weight.

    The formula is that of the authors' code, where every cell has alphas of its own. Here the cells of a type share
    their alphas, and the terms of an operation in all cells of its type are added up.

    References:
        1. Bi, Xie, Chen, Wei, Tian: GOLD-NAS: Gradual, One-Level, Differentiable, 2020, https://arxiv.org/abs/2007.03331

    Attributes:
        weight: Present factor of the penalty.
        costs: ``1 + mu * cost`` of every operation, summed over the cells of its type, ``(edges, operations)`` by cell
            type; empty before a model is attached, when nothing costs anything.

    Args:
        weight: Factor of the penalty at the start, at least 0 (the authors' code: 0, which ``GradualPruning`` raises).
        mu: Weight of the cost against the number of operations, at least 0 (the authors' code: 0).
        floor: Share up to which an operation pays nothing, at least 0 and below 1 (the authors' code: 0.01).

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        relaxation: Sigmoid
        regularizers: [{class_path: ExpectedCost, init_args: {mu: 1.0}}]
        ```
    """

    def __init__(self, weight: float = 0.0, *, mu: float = 0.0, floor: float = 0.01) -> None:
        at_least(0, weight=weight, mu=mu)
        within("[0, 1)", floor=floor)
        self.weight = weight
        self.mu = mu
        self.floor = floor
        self.relaxation: Relaxation = Sigmoid()
        self.nodes: tuple[slice, ...] = ()
        self.costs: dict[str, Tensor] = {}

    def attach(self, model: SearchModel) -> None:
        """Count the costs of the operations, unless that was done before.

        Args:
            model: The model of the search.

        Raises:
            ConfigError: The factors of an edge have a fixed sum, or the space is not one of cells.
        """
        self.relaxation = model.relaxation
        probe = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
        if torch.allclose(self.relaxation.relax(probe).sum(1), torch.ones(2)):
            raise ConfigError(
                f"ExpectedCost lowers factors, but those of {type(self.relaxation).__name__} sum to 1 on every edge. "
                "Use Sigmoid as the relaxation, or leave ExpectedCost out."
            )
        self.nodes = model.space.nodes
        if not self.costs:
            self.costs = self._counted(model)

    def _counted(self, model: SearchModel) -> dict[str, Tensor]:
        """``1 + mu * cost`` by operation, from a pass of the plain supernet, which has a module for each."""
        space = model.space
        if not isinstance(space, CellSpace):
            raise ConfigError(
                f"ExpectedCost counts the cells and operations of a CellSpace; the space is {type(space).__name__}. "
                "Leave ExpectedCost out."
            )
        shape = (space.edges, len(space.operations))
        costs = {name: torch.zeros(shape) for name in space.cell_types}
        plain = space.per_edge_supernet(num_classes=model.num_classes, image_shape=model.image_shape).eval()
        entering: dict[nn.Module, tuple[int, ...]] = {}

        def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            entering[module] = tuple(inputs[0].shape[1:])

        cells = [cell for cell in plain.cells if isinstance(cell, PerEdgeCell)]
        every = [module for cell in cells for edge in cell.edges for module in edge.children()]
        hooks = [module.register_forward_pre_hook(record) for module in every]
        with torch.no_grad():
            mixture = Mixture(torch.ones(shape), torch.ones(shape[0]))
            plain(torch.zeros(1, *model.image_shape), dict.fromkeys(space.cell_types, mixture))
        for hook in hooks:
            hook.remove()
        for cell in cells:
            for edge, modules in enumerate(cell.edges):
                for column, module in modules.named_children():
                    cost = self.mu * macs(module, entering[module]) / 1e6 if self.mu else 0.0
                    costs[cell.cell_type][edge, int(column)] += 1 + cost
        return costs

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term of the alphas' loss, a scalar; operations that the space does not allow have the factor 0.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; ``-inf`` where the space does not allow an operation.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last; not used.
        """
        terms = []
        for name, a in alphas.items():
            factors = self.relaxation.relax(a)
            terms.append(0.0 * factors.sum())
            for node in self.nodes:
                shares = factors[node] / factors[node].sum()
                paying = shares > self.floor
                costs = self.costs[name].to(a, non_blocking=True)[node] * paying
                terms.append((torch.log1p(paying.sum() * shares) * costs).sum())
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
