"""Interface of attention inside the mixtures of a supernet."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

OperationScores = Callable[[Tensor], Tensor]
"""What ``Attention.operation_scores`` returns: maps pooled outputs of operations to scores."""


class Attention:
    """Base class of attention inside a supernet, which weights channels or operations depending on the image.

    A subclass overrides one of the two methods or both. The modules that they return belong to the supernet: they are
    trained together with the weights of the operations, and are never part of the found network.

    Example:
        ```python
        class Gates(Attention):
            def channel_gate(self, channels: int) -> nn.Module:
                return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())
        ```
    """

    def channel_gate(self, channels: int) -> nn.Module | None:
        """Build the gate of one state of a cell, or return None for no gate.

        The gate maps the channels of the state that enter operations, ``(batch, channels, height, width)``, to
        positive factors that broadcast over them. A cell has one gate per state that its nodes read.

        Args:
            channels: Number of channels that enter the operations.
        """
        return None

    def operation_scores(self, channels: int, operations: int) -> nn.Module | None:
        """Build the module that scores the operations of one cell, or return None for no scores.

        The module maps the outputs of operations, averaged over the pixels, ``(batch, edges, operations, channels)``,
        to scores ``(batch, edges, operations)``. Outputs of operations that are not computed are zero. The factor of
        an operation is multiplied by ``exp(score)``; then the factors of each edge are rescaled to their former sum.

        Args:
            channels: Number of channels of an operation's output.
            operations: Number of operations.
        """
        return None


def apply_scores(factors: Tensor, pooled: Tensor, scores: OperationScores) -> Tensor:
    """Weight the factors of operations by scores; the sum of the factors of every edge stays the same.

    Args:
        factors: Factors of the mixture, ``(edges, operations)``.
        pooled: Outputs of the operations, averaged over the pixels, ``(batch, edges, operations, channels)``.
        scores: See ``Attention.operation_scores``.

    Returns:
        Factors for every image, ``(batch, edges, operations)``.
    """
    weighted = factors * scores(pooled).exp()
    sums = weighted.sum(2, keepdim=True)
    # all factors of an edge may be zero: the edge is switched off and stays so
    sums = torch.where(sums == 0, torch.ones_like(sums), sums)
    return weighted * (factors.sum(1, keepdim=True) / sums)
