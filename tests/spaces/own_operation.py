"""An operation as a user writes it, in a module that an exported network can carry along."""

from torch import Tensor, nn

from lightning_nas.spaces import Operation


class ScaledChannels(nn.Module):
    """Scales channels by what a small network says of their means."""

    def __init__(self, channels: int, ratio: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)
        self.scale = nn.Sequential(
            nn.Linear(channels, max(1, channels // ratio)), nn.ReLU(), nn.Linear(max(1, channels // ratio), channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        y: Tensor = x * self.scale(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return y


class SqueezeExcite(Operation):
    """Squeeze and excitation.

    Args:
        ratio: Factor by which the inner layer is narrower.
    """

    name = "squeeze_excite"

    def __init__(self, ratio: int = 4) -> None:
        self.ratio = ratio

    def module(self, channels: int, stride: int, affine: bool) -> nn.Module:
        return ScaledChannels(channels, self.ratio, stride)
