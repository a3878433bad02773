"""The operations of the DARTS space.

Only torch is imported here, and no other module of the library: an exported network carries this code with it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution, batch norm."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int, padding: int, affine: bool = True
    ) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )


class DilConv(nn.Sequential):
    """ReLU, dilated depthwise convolution, pointwise convolution, batch norm."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int = 2, affine: bool = True) -> None:
        padding = dilation * (kernel - 1) // 2
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )


class SepConv(nn.Sequential):
    """The pair of depthwise and pointwise convolution applied twice; the stride is the first one's."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool = True) -> None:
        super().__init__(
            DilConv(channels, kernel, stride, dilation=1, affine=affine),
            DilConv(channels, kernel, 1, dilation=1, affine=affine),
        )


def every_second(x: Tensor, first: int) -> Tensor:
    """Every second pixel of both sides, from ``first`` on.

    The channels are put last before, so that the gradient has them last, too: other layouts are slow further down.
    """
    return x.permute(0, 2, 3, 1)[:, first::2, first::2].permute(0, 3, 1, 2)


class FactorizedReduce(nn.Module):
    """Halves height and width (rounding up): two strided 1x1 convolutions, the second shifted by one pixel.

    The stride is a slice: with torch 2.15 on the CPU, the weight gradient of a strided 1x1 convolution in channels_last
    with fewer than 7 input channels writes past its memory.
    """

    def __init__(self, channels_in: int, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(channels_in, channels // 2, 1, bias=False)
        self.conv_2 = nn.Conv2d(channels_in, channels - channels // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels_in, height, width)`` to ``(batch, channels, ceil(height / 2), ceil(width / 2))``."""
        x = self.relu(x)
        # an odd side has one pixel too few after the shift
        shifted = F.pad(every_second(x, 1), (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        y: Tensor = self.bn(torch.cat([self.conv_1(every_second(x, 0)), self.conv_2(shifted)], dim=1))
        return y


class Zero(nn.Module):
    """The operation ``none``: zeros of the output's size."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros like every ``stride``-th pixel of ``x``."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """The operation ``noise``: standard normal noise of the output's size, in training and evaluation alike.

    In a supernet, all edges that leave a state have the same noise, instead of each its own.

    References:
        1. Zela, Elsken, Saikia, Marrakchi, Brox, Hutter: Understanding and Robustifying Differentiable Architecture
           Search, ICLR 2020, https://arxiv.org/abs/1909.09656
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Draw noise like every ``stride``-th pixel of ``x``."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Set whole samples of ``x`` to zero with ``probability`` and scale the others by ``1 / (1 - probability)``."""
    keep = 1.0 - probability
    mask = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x * mask / keep


OPERATIONS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "skip_connect": lambda channels, stride, affine: (
        nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    ),
    "sep_conv_3x3": lambda channels, stride, affine: SepConv(channels, 3, stride, affine),
    "sep_conv_5x5": lambda channels, stride, affine: SepConv(channels, 5, stride, affine),
    "dil_conv_3x3": lambda channels, stride, affine: DilConv(channels, 3, stride, affine=affine),
    "dil_conv_5x5": lambda channels, stride, affine: DilConv(channels, 5, stride, affine=affine),
}
"""From the published name of an operation to its maker ``(channels, stride, affine) -> module``."""

ALL_OPERATIONS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    **OPERATIONS,
    "noise": lambda channels, stride, affine: Noise(stride),
}
"""Those of the DARTS space, and others that a space may name."""
