"""The anchor of DrNAS."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.dirichlet import Dirichlet, concentrations
from lightning_nas.errors import ConfigError


class DirichletAnchor(Regularizer):
    """Keeps the Dirichlet distributions of all edges close to the uniform one.

    The term is ``weight * sum KL(Dir(beta) || Dir(1))``. The sum is over all edges of all cell types, ``beta =
    elu(alpha) + 1``, and the anchor ``Dir(1)`` makes all mixtures of the operations that the edge may take equally
    likely. It goes with ``Dirichlet`` as the relaxation, and takes the place of the weight decay of the alphas, which
    is the other distance from the anchor in the authors' code.

    References:
        1. Chen, Wang, Cheng, Tang, Hsieh: DrNAS: Dirichlet Neural Architecture Search, ICLR 2021,
           https://arxiv.org/abs/2006.10355

    Args:
        weight: Factor of the term, at least 0 (the paper: 0.001).

    Raises:
        ConfigError: ``weight`` is negative.

    Example:
        ```yaml
        relaxation: Dirichlet
        regularizers: [{class_path: DirichletAnchor, init_args: {weight: 0.001}}]
        ```
    """

    def __init__(self, weight: float = 0.001) -> None:
        at_least(0, weight=weight)
        self.weight = weight

    def attach(self, model: SearchModel) -> None:
        """Refuse a relaxation that has no such distributions.

        Args:
            model: The model of the search.

        Raises:
            ConfigError: It is not ``Dirichlet``.
        """
        if not isinstance(model.relaxation, Dirichlet):
            raise ConfigError(
                f"DirichletAnchor keeps Dirichlet distributions close to an anchor, but the relaxation is "
                f"{type(model.relaxation).__name__}. Use Dirichlet as the relaxation, or leave DirichletAnchor out."
            )

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term of the alphas' loss, a scalar.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; ``-inf`` where the space does not allow an operation.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last; not used.
        """
        return self.weight * torch.stack([_divergence(a) for a in alphas.values()]).sum()


def _divergence(alphas: Tensor) -> Tensor:
    """Sum over edges of the Kullback-Leibler divergence from the anchor; edges without operations have none."""
    concentration = concentrations(alphas)
    allowed = concentration > 0
    concentration = torch.where(allowed, concentration, 1.0)
    count = allowed.sum(1).to(concentration)
    on = count > 0
    count = torch.where(on, count, 1.0)
    total = torch.where(on, (concentration * allowed).sum(1), 1.0)
    pull = (concentration - 1) * (concentration.digamma() - total.digamma()[:, None]) - concentration.lgamma()
    return (total.lgamma() - count.lgamma() + (pull * allowed).sum(1)).sum()
