"""Modules of the operations on the edges of cells.

An exported network carries this source code with it, so this file imports torch and nothing else. Layers that the
public code keeps in the attribute ``op`` are kept in it here, too, so that weights have the same names.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Branch(nn.Module):
    """Layers applied one after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        y: Tensor = self.op(x)
        return y


class ReLUConvBN(Branch):
    """ReLU, convolution, batch norm."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int, padding: int, affine: bool = True
    ) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )


def depthwise_pointwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    """Return ReLU, depthwise convolution, pointwise convolution and batch norm; stride 1 keeps the image size."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


class DilConv(Branch):
    """ReLU, dilated depthwise convolution, pointwise convolution, batch norm."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int = 2, affine: bool = True) -> None:
        super().__init__(*depthwise_pointwise(channels, kernel, stride, dilation, affine))


class SepConv(Branch):
    """ReLU, depthwise convolution, pointwise convolution and batch norm, twice; only the first time with the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool = True) -> None:
        super().__init__(
            *depthwise_pointwise(channels, kernel, stride, 1, affine),
            *depthwise_pointwise(channels, kernel, 1, 1, affine),
        )


def every_second(x: Tensor, first: int) -> Tensor:
    """Return every second pixel of both sides, starting with pixel ``first``.

    The channels are moved to the last dimension before slicing, so that the gradient is in channels_last memory, too:
    the operations that follow are slow in other layouts.
    """
    return x.permute(0, 2, 3, 1)[:, first::2, first::2].permute(0, 3, 1, 2)


class FactorizedReduce(nn.Module):
    """Halves height and width (rounding up): two strided 1x1 convolutions, the second shifted by one pixel.

    The stride is a slice: in torch 2.15 on the CPU, the weight gradient of a strided 1x1 convolution in channels_last
    memory with fewer than 7 input channels writes beyond its memory.
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
        # after the shift, an odd side lacks one pixel
        shifted = F.pad(every_second(x, 1), (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        y: Tensor = self.bn(torch.cat([self.conv_1(every_second(x, 0)), self.conv_2(shifted)], dim=1))
        return y


class Zero(nn.Module):
    """Zeros of the output's size."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros with the shape of every ``stride``-th pixel of ``x``."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """Standard normal noise of the output's size, in training and evaluation alike."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Draw noise with the shape of every ``stride``-th pixel of ``x``."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


def max_pool(stride: int) -> nn.Module:
    """Return 3x3 max pooling; stride 1 keeps the image size."""
    return nn.MaxPool2d(3, stride, padding=1)


def average_pool(stride: int) -> nn.Module:
    """Return 3x3 average pooling that leaves the padding out of its means; stride 1 keeps the image size."""
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Set whole samples of ``x`` to zero with ``probability`` and scale the others by ``1 / (1 - probability)``."""
    keep = 1.0 - probability
    mask = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x * mask / keep


MODULES: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "max_pool_3x3": lambda channels, stride, affine: max_pool(stride),
    "avg_pool_3x3": lambda channels, stride, affine: average_pool(stride),
    "skip_connect": lambda channels, stride, affine: (
        nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    ),
    "sep_conv_3x3": lambda channels, stride, affine: SepConv(channels, 3, stride, affine),
    "sep_conv_5x5": lambda channels, stride, affine: SepConv(channels, 5, stride, affine),
    "dil_conv_3x3": lambda channels, stride, affine: DilConv(channels, 3, stride, affine=affine),
    "dil_conv_5x5": lambda channels, stride, affine: DilConv(channels, 5, stride, affine=affine),
    "noise": lambda channels, stride, affine: Noise(stride),
}
"""Makers ``(channels, stride, affine) -> module`` of the built-in operations, by name."""
