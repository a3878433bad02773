"""Channel attention in the mixtures."""

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.attention import Attention


class ChannelGate(nn.Module):
    """``2 * sigmoid(conv1d(GAP(x)))``, one factor a sample and channel; 1 everywhere at the start."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)`` to factors ``(batch, channels, 1, 1)`` in (0, 2)."""
        pooled = x.mean(dim=(2, 3)).unsqueeze(1)  # (batch, 1, channels)
        return 2 * torch.sigmoid(self.conv(pooled)).transpose(1, 2).unsqueeze(-1)


class ChannelAttention(Attention):
    """Weights the channels that enter the operations by a gate on their pooled values.

    Efficient channel attention: a convolution over neighbouring channels, ``kernel_size`` weights a state. With
    partial connections the gate weights the K-th of the channels that is computed. The gate helps the supernet and is
    no part of the found network. A reconstruction: the pipeline that names attention against selection errors (Liu et
    al., Neural Networks 2025) publishes no formula.

    References:
        1. Wang et al.: ECA-Net: Efficient Channel Attention, CVPR 2020, https://arxiv.org/abs/1910.03151

    Args:
        kernel_size: Neighbouring channels that a factor depends on, odd.
    """

    def __init__(self, kernel_size: int = 3) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size is {kernel_size}; it must be odd and at least 1.")
        self.kernel_size = kernel_size

    def channel_gate(self, channels: int) -> nn.Module:
        """A gate for one state."""
        return ChannelGate(self.kernel_size)
