"""The zero-one loss of FairDARTS."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.errors import ConfigError


class ZeroOne(Regularizer):
    """Drives the sigmoids of the alphas to 0 or 1: ``-weight * mean over all alphas of (sigmoid(alpha) - 0.5)^2``.

    The mean is over the operations of all edges of all cell types together, without those that the space does not
    allow. It goes with ``Sigmoid`` as the relaxation.

    References:
        1. Chu, Zhou, Zhang, Li: Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search, ECCV
           2020, https://arxiv.org/abs/1911.12126

    Args:
        weight: Factor of the term, at least 0 (the paper: 10).

    Raises:
        ConfigError: ``weight`` is negative.

    Example:
        ```yaml
        relaxation: Sigmoid
        regularizers: [{class_path: ZeroOne, init_args: {weight: 10.0}}]
        ```
    """

    def __init__(self, weight: float = 10.0) -> None:
        at_least(0, weight=weight)
        self.weight = weight

    def attach(self, model: SearchModel) -> None:
        """Refuse a relaxation whose factors are no sigmoids.

        Args:
            model: The model of the search.

        Raises:
            ConfigError: It is not ``Sigmoid``.
        """
        if not isinstance(model.relaxation, Sigmoid):
            raise ConfigError(
                f"ZeroOne drives sigmoids of the alphas to 0 or 1, but the relaxation is "
                f"{type(model.relaxation).__name__}. Use Sigmoid as the relaxation, or leave ZeroOne out."
            )

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term of the alphas' loss, a scalar.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; ``-inf`` where the space does not allow an operation.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last; not used.
        """
        every = torch.cat([a.flatten() for a in alphas.values()])
        allowed = every.isfinite()
        return -self.weight * torch.where(allowed, (every.sigmoid() - 0.5).square(), 0.0).sum() / allowed.sum()
