"""Attention: weights channels inside the mixtures of a supernet."""

from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.spaces.attention import Attention

__all__ = [
    "Attention",
    "ChannelAttention",
]
