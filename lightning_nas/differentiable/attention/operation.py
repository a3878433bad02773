"""Attention over the candidate operations of an edge."""

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.attention import Attention


class OperationScores(nn.Module):
    """``q . GAP(o(x)) / temperature`` for every operation, with one learned query a cell."""

    def __init__(self, channels: int, temperature: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(channels))
        self.temperature = temperature

    def forward(self, pooled: Tensor) -> Tensor:
        """Map ``(batch, edges, operations, channels)`` to ``(batch, edges, operations)``."""
        return pooled @ self.query / self.temperature


class OperationAttention(Attention):
    """Weights operations by what they put out: ``w_o ~ exp(alpha_o + q . GAP(o(x)) / temperature)``.

    With the softmax relaxation this is exactly the softmax of alphas plus scores; with another one, an edge keeps its
    sum. The found network is read from the alphas alone. A reconstruction: the pipeline that names attention against
    selection errors (Liu et al., Neural Networks 2025) publishes no formula.

    Args:
        temperature: Divisor of the scores, above 0.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ConfigError(f"temperature is {temperature}; it must be above 0.")
        self.temperature = temperature

    def operation_scores(self, channels: int, operations: int) -> nn.Module:
        """Scores for one cell."""
        return OperationScores(channels, self.temperature)
