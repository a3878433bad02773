"""Attention over the channels of a state."""

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.attention import Attention


class ChannelGate(nn.Module):
    """The factors ``2 * sigmoid(conv1d(GAP(x)))``, one per image and channel; all 1 at the start.

    Args:
        kernel_size: Number of neighbouring channels that a factor depends on; odd.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Factors ``(batch, channels, 1, 1)`` in (0, 2).

        Args:
            x: A state ``(batch, channels, height, width)``.
        """
        pooled = x.mean(dim=(2, 3)).unsqueeze(1)  # (batch, 1, channels)
        return 2 * torch.sigmoid(self.conv(pooled)).transpose(1, 2).unsqueeze(-1)


class ChannelAttention(Attention):
    """Weights the channels that enter the operations of a cell by their pooled values.

    Every state ``x`` of a cell is multiplied by ``2 * sigmoid(conv1d(GAP(x)))``, as in efficient channel attention: the
    convolution runs over neighbouring channels and has ``kernel_size`` weights per state. The weights start at zero,
    so that all factors are 1 and the search starts like one without attention. With partial connections the gate
    weights only the channels that are computed. The gates help to train the supernet; the found network has none.

    A reconstruction: the pipeline that names attention as a remedy for selection errors (Liu et al., Neural Networks
    2025) publishes no formula.

    References:
        1. Wang et al.: ECA-Net: Efficient Channel Attention, CVPR 2020, https://arxiv.org/abs/1910.03151

    Args:
        kernel_size: Number of neighbouring channels that a factor depends on; positive and odd.

    Raises:
        ConfigError: ``kernel_size`` is even or not positive.

    Example:
        ```yaml
        attention: {class_path: ChannelAttention, init_args: {kernel_size: 3}}
        ```
    """

    def __init__(self, kernel_size: int = 3) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size is {kernel_size}; it must be a positive odd number.")
        self.kernel_size = kernel_size

    def channel_gate(self, channels: int) -> nn.Module:
        """A gate for one state.

        Args:
            channels: Number of its channels; the gate has the same weights for any number.
        """
        return ChannelGate(self.kernel_size)
