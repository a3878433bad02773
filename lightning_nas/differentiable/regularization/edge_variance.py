"""A penalty on alphas that differ in size between edges."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.differentiable.regularization.base import Regularizer


class EdgeVariance(Regularizer):
    """Keeps the alphas of different edges alike in size, so that their softmaxed factors can be compared.

    ``weight * sum over cell types of Var over edges of ||alpha_edge||_2``, with the variance of a population (divided
    by the number of edges).

    A reconstruction: the pipeline that names regularization as a remedy for selection errors (Liu et al., Neural
    Networks 2025) publishes no formula.

    Args:
        weight: Factor of the term, at least 0.

    Raises:
        ConfigError: ``weight`` is negative.

    Example:
        ```yaml
        regularizers: [{class_path: EdgeVariance, init_args: {weight: 1.0}}]
        ```
    """

    def __init__(self, weight: float = 1.0) -> None:
        at_least(0, weight=weight)
        self.weight = weight

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term of the alphas' loss, a scalar.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; ``-inf`` where the space does not allow an operation.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last; not used.
        """
        # the gradient of a norm is not finite at zero, which the small constant avoids
        sizes = [(a.masked_fill(a.isinf(), 0.0).square().sum(dim=1) + 1e-12).sqrt() for a in alphas.values()]
        return self.weight * torch.stack([size.var(correction=0) for size in sizes]).sum()
