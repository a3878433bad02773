"""Beta decay."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.differentiable.regularization.base import Regularizer


class BetaDecay(Regularizer):
    """Pulls the alphas down together, so that the softmaxed factors vary less while the weights are young.

    ``weight * progress * sum over cell types of mean over edges of logsumexp_o(alpha_o)``. The factor of the term rises
    linearly from 0 to ``weight`` in the course of the search.

    References:
        1. Ye et al.: beta-DARTS: Beta-Decay Regularization for DARTS, CVPR 2022, https://arxiv.org/abs/2203.01665

    Args:
        weight: Factor of the term at the end of the search, at least 0 (the paper: 50).

    Raises:
        ConfigError: ``weight`` is negative.

    Example:
        ```yaml
        regularizers: [{class_path: BetaDecay, init_args: {weight: 50.0}}]
        ```
    """

    def __init__(self, weight: float = 50.0) -> None:
        at_least(0, weight=weight)
        self.weight = weight

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term of the alphas' loss, a scalar.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; ``-inf`` where the space does not allow an operation.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
        """
        terms = []
        for a in alphas.values():
            on = a.isfinite().any(1)  # an edge without operations has no term
            each = torch.logsumexp(a.masked_fill(~on[:, None], 0.0), dim=1)
            terms.append(torch.where(on, each, 0.0).sum() / on.sum())
        return self.weight * progress * torch.stack(terms).sum()
