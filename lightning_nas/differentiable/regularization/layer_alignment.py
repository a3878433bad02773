"""The layer alignment of Λ-DARTS."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer, WeightStep
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.supernet import layer_key


def alignment(gradients: Sequence[Tensor]) -> Tensor:
    """Mean cosine between the gradients of all pairs of layers, a scalar between -1 and 1.

    Args:
        gradients: The gradient of each layer, of equal shapes; at least two.
    """
    flat = torch.stack([g.flatten() for g in gradients])
    units = flat / flat.norm(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    pairs: Tensor = (units @ units.t()).triu(diagonal=1)
    return pairs.sum() / (len(gradients) * (len(gradients) - 1) / 2)


class LayerAlignment(Regularizer):
    """Lets the cells of a type agree about the operations.

    The term is ``-weight * progress`` times the mean cosine between gradients of layers. All cells of a type share
    their alphas, which follow the sum of the gradients that each cell would give them. Where these point in different
    directions, the cells near the output win, and what they prefer is few layers: skip connections. The term raises the
    mean cosine between the gradients of the cross-entropy with respect to the factors of every two cells of a type. It
    moves the weights, not the alphas; its weight rises linearly from 0.

    The derivative of the cosines needs second derivatives of the loss, which are computed exactly; the authors' code
    takes a finite difference in their direction. A step of the weights costs a pass and two backward passes more. With
    several processes, the gradients of the layers are averaged first.

    References:
        1. Movahedi et al.: Λ-DARTS: Mitigating Performance Collapse by Harmonizing Operation Selection among Cells,
           ICLR 2023, https://arxiv.org/abs/2210.07998

    Args:
        weight: Factor of the term at the end of the search, at least 0 (the authors' code: 0.125).
        cell_types: The types of cells that shall agree; null, the default, takes all that stand in two layers at least.
            In the DARTS space the authors' code takes ``[normal]``.

    Raises:
        ConfigError: ``weight`` is negative.

    Example:
        ```yaml
        regularizers: [{class_path: LayerAlignment, init_args: {weight: 0.125, cell_types: [normal]}}]
        ```
    """

    weight_term = True

    def __init__(self, weight: float = 0.125, *, cell_types: Sequence[str] | None = None) -> None:
        at_least(0, weight=weight)
        self.weight = weight
        self.cell_types = cell_types
        self.layers: dict[str, list[int]] = {}

    def attach(self, model: SearchModel) -> None:
        """Find the layers of every cell type.

        Args:
            model: The model of the search.

        Raises:
            ConfigError: No cell type has two layers, one that was given has not, or the supernet has no second
                derivatives.
        """
        types = model.supernet.layer_types()
        layers = {name: [i for i, each in enumerate(types) if each == name] for name in model.space.cell_types}
        wanted = self.cell_types or [name for name, places in layers.items() if len(places) > 1]
        if not wanted or any(len(layers.get(name, [])) < 2 for name in wanted):
            counts = {name: len(places) for name, places in layers.items()}
            raise ConfigError(
                f"LayerAlignment compares layers of the cell types {list(wanted)}, but the supernet has {counts} "
                "layers of each. Name types with two at least, give the space more cells, or leave LayerAlignment out."
            )
        runner = model.runner
        if runner.checkpoint_cells or runner.compile is not False:
            raise ConfigError(
                f"LayerAlignment needs second derivatives, which checkpoint_cells: {runner.checkpoint_cells} and "
                f"compile: {runner.compile} do not give. Use checkpoint_cells: false and compile: false."
            )
        self.layers = {name: layers[name] for name in wanted}

    def factor(self, progress: float) -> float:
        """Weight of the mean cosine.

        Args:
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
        """
        return self.weight * progress

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """Zero: the alphas have no term of their own.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; ``-inf`` where the space does not allow an operation.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last; not used.
        """
        return 0.0 * torch.stack([a.masked_fill(~a.isfinite(), 0.0).sum() for a in alphas.values()]).sum()

    def layer_gradients(self, step: WeightStep) -> dict[str, list[Tensor]]:
        """Gradients of the cross-entropy with respect to the factors of every layer, by cell type, with their graph.

        Args:
            step: The step of the weights.
        """
        model = step.model
        factors, mixtures = {}, dict(step.mixtures)
        for name, places in self.layers.items():
            for place in places:
                factors[place] = step.mixtures[name].operations.detach().clone().requires_grad_()
                mixtures[layer_key(place)] = step.mixtures[name]._replace(operations=factors[place])
        loss = step.cross_entropy(model.logits(step.images, mixtures, model.weights))
        found = torch.autograd.grad(loss, tuple(factors.values()), create_graph=True)
        by_place = dict(zip(factors, found, strict=True))
        return {name: [by_place[place] for place in places] for name, places in self.layers.items()}

    def weight_penalty(self, step: WeightStep) -> Tensor | None:
        """The term of the weights' loss, a scalar; None while its factor is 0.

        Args:
            step: The step of the weights.
        """
        factor = self.factor(step.progress)
        if not factor or step.model.frozen:
            return None
        terms = []
        for gradients in self.layer_gradients(step).values():
            means = [step.mean(g.detach()).requires_grad_() for g in gradients]
            with torch.enable_grad():
                cosine = alignment(means)
            directions = torch.autograd.grad(cosine, means)
            # this has the gradient of the cosine of the averaged gradients, when processes average their gradients
            moved = torch.stack([(d * g).sum() for d, g in zip(directions, gradients, strict=True)]).sum()
            terms.append(cosine.detach() + moved - moved.detach())
        return -factor * torch.stack(terms).sum()
