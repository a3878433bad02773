"""Variance of the alphas' size across edges."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.errors import ConfigError


class EdgeVariance(Regularizer):
    """``weight * sum over cell types of Var over edges of ||alpha_edge||_2``.

    Edges whose alphas differ in size cannot be compared by their softmaxed factors; this keeps the sizes alike. A
    reconstruction: the pipeline that names regularization against selection errors (Liu et al., Neural Networks 2025)
    publishes no formula.

    Args:
        weight: Factor, at least 0.

    Raises:
        ConfigError: The weight is below 0.
    """

    def __init__(self, weight: float = 1.0) -> None:
        if weight < 0:
            raise ConfigError(f"weight is {weight}; it must be at least 0.")
        self.weight = weight

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term, a scalar; the variance is that of the population (divided by the number of edges)."""
        # the norm of an all-zero row has no gradient
        sizes = [(a.masked_fill(a.isinf(), 0.0).square().sum(dim=1) + 1e-12).sqrt() for a in alphas.values()]
        return self.weight * torch.stack([size.var(correction=0) for size in sizes]).sum()
