"""Attention against its formulas."""

import pytest
import torch

from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.errors import ConfigError


def test_channel_gate_is_one_at_the_start_and_broadcasts() -> None:
    gate = ChannelAttention(kernel_size=3).channel_gate(6)
    x = torch.randn(2, 6, 5, 4)
    assert torch.equal(gate(x), torch.ones(2, 6, 1, 1))
    gate.conv.weight.data = torch.tensor([[[0.5, 1.0, -0.25]]])
    pooled = torch.nn.functional.pad(x.mean((2, 3)), (1, 1))
    expected = 2 * torch.sigmoid(0.5 * pooled[:, :-2] + pooled[:, 1:-1] - 0.25 * pooled[:, 2:])
    torch.testing.assert_close(gate(x)[:, :, 0, 0], expected)
    with pytest.raises(ConfigError):
        ChannelAttention(kernel_size=2)
