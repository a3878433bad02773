"""Beta decay."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.errors import ConfigError


class BetaDecay(Regularizer):
    """``weight * progress * sum over cell types of mean over edges of logsumexp_o(alpha_o)``.

    It pulls the alphas down together, so that the softmaxed factors vary less while the weights are young.

    References:
        1. Ye et al.: beta-DARTS: Beta-Decay Regularization for DARTS, CVPR 2022, https://arxiv.org/abs/2203.01665

    Args:
        weight: Factor at the end of the search, at least 0, to which it rises linearly from 0 (the paper: 50).

    Raises:
        ConfigError: The weight is below 0.
    """

    def __init__(self, weight: float = 50.0) -> None:
        if weight < 0:
            raise ConfigError(f"weight is {weight}; it must be at least 0.")
        self.weight = weight

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term, a scalar."""
        # an edge without operations has no term
        terms = [torch.logsumexp(a[a.isfinite().any(1)], dim=1).mean() for a in alphas.values()]
        return self.weight * progress * torch.stack(terms).sum()
