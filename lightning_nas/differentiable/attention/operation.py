"""Attention over the operations of an edge."""

import torch
from torch import Tensor, nn

from lightning_nas.checks import greater_than
from lightning_nas.spaces.attention import Attention


class OperationScores(nn.Module):
    """The scores ``q . GAP(o(x)) / temperature`` of all operations, with one learned query ``q`` per cell.

    Args:
        channels: Number of channels that the operations put out.
        temperature: Divisor of the scores.
    """

    def __init__(self, channels: int, temperature: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(channels))
        self.temperature = temperature

    def forward(self, pooled: Tensor) -> Tensor:
        """Scores ``(batch, edges, operations)``.

        Args:
            pooled: Outputs of the operations, averaged over height and width, ``(batch, edges, operations, channels)``.
        """
        return pooled @ self.query / self.temperature


class OperationAttention(Attention):
    """Weights the operations of an edge by their outputs: ``w_o ~ exp(alpha_o + q . GAP(o(x)) / temperature)``.

    With the softmax relaxation this is the softmax of alphas plus scores; with any other relaxation the factors of an
    edge keep their sum. The query ``q`` of a cell starts at zero, so that the search starts like one without attention.
    The found network is read from the alphas alone.

    A reconstruction: the pipeline that names attention as a remedy for selection errors (Liu et al., Neural Networks
    2025) publishes no formula.

    Args:
        temperature: Divisor of the scores, greater than 0; small values make the weights differ more between images.

    Raises:
        ConfigError: ``temperature`` is not greater than 0.

    Example:
        ```yaml
        attention: {class_path: OperationAttention, init_args: {temperature: 1.0}}
        ```
    """

    def __init__(self, temperature: float = 1.0) -> None:
        greater_than(0, temperature=temperature)
        self.temperature = temperature

    def operation_scores(self, channels: int, operations: int) -> nn.Module:
        """Scores for one cell.

        Args:
            channels: Number of channels that the operations put out.
            operations: Number of operations; the scores have the same weights for any number.
        """
        return OperationScores(channels, self.temperature)
