"""The zero-one loss of FairDARTS."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.errors import ConfigError


class ZeroOne(Regularizer):
    """``-weight * mean over all alphas of (sigmoid(alpha) - 0.5)^2``: it drives the sigmoids to 0 or 1.

    The mean is over the operations of all edges of all cell types together; what the space does not allow is left out.

    References:
        1. Chu, Zhou, Zhang, Li: Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search, ECCV
           2020, https://arxiv.org/abs/1911.12126

    Args:
        weight: Factor, at least 0 (the paper: 10).

    Raises:
        ConfigError: ``weight`` is negative.
    """

    def __init__(self, weight: float = 10.0) -> None:
        if weight < 0:
            raise ConfigError(f"weight is {weight}; it must be at least 0.")
        self.weight = weight

    def attach(self, model: SearchModel) -> None:
        """Refuse a relaxation that has no sigmoids.

        Raises:
            ConfigError: It is not ``Sigmoid``.
        """
        if not isinstance(model.relaxation, Sigmoid):
            raise ConfigError(
                f"ZeroOne drives sigmoids of the alphas to 0 or 1, but the relaxation is "
                f"{type(model.relaxation).__name__}. Use Sigmoid as the relaxation, or leave ZeroOne out."
            )

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term, a scalar."""
        allowed = torch.cat([a[a.isfinite()] for a in alphas.values()])
        return -self.weight * (allowed.sigmoid() - 0.5).square().mean()
