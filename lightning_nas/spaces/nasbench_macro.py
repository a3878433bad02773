"""The space of NAS-Bench-Macro: chains of eight blocks of three kinds.

An exported network carries the source code of its class with it, so the networks need only torch.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError
from lightning_nas.spaces.base import Features
from lightning_nas.spaces.product import ProductSpace

STAGES = (2, 3, 3)
"""Number of blocks of each stage; the first one halves height and width, and doubles the channels."""

STEM, HEAD = 32, 1280
"""Channels of the first and of the last convolution."""


class MacroBlock(nn.Module):
    """A block of NAS-Bench-Macro: an inverted residual, or a connection that changes no more than it has to.

    The inverted residual expands the channels, convolves each of them and projects them to those of the output; where
    its output has the shape of its input, both are added. The connection is a 1x1 convolution with batch norm where
    shapes differ, and nothing otherwise.

    Args:
        kind: 0 for the connection, 1 for an expansion of 3 and kernels of 3, 2 for an expansion of 6 and kernels of 5.
        channels_in: Channels of the input.
        channels: Channels of the output.
        stride: 1 keeps height and width, 2 halves them.
    """

    def __init__(self, kind: int, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        same = stride == 1 and channels_in == channels
        self.residual = same and kind > 0
        self.layers = nn.Sequential()
        if kind == 0 and not same:
            self.layers.extend([nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)])
        if kind > 0:
            expansion, kernel = ((3, 3), (6, 5))[kind - 1]
            middle = expansion * channels_in
            self.layers.extend(
                [
                    nn.Conv2d(channels_in, middle, 1, bias=False),
                    nn.BatchNorm2d(middle),
                    nn.ReLU(),
                    nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle, bias=False),
                    nn.BatchNorm2d(middle),
                    nn.ReLU(),
                    nn.Conv2d(middle, channels, 1, bias=False),
                    nn.BatchNorm2d(channels),
                ]
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels_in, height, width)`` to ``(batch, channels, height / stride, width / stride)``."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class NASBenchMacroNetwork(nn.Module):
    """The published network around eight blocks.

    Args:
        kinds: Kinds of the blocks; see ``MacroBlock``.
        num_classes: Number of classes.
        channels_in: Channels of an image.
    """

    def __init__(self, kinds: Sequence[int], num_classes: int = 10, channels_in: int = 3) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "kinds": list(kinds),
            "num_classes": num_classes,
            "channels_in": channels_in,
        }
        """The constructor arguments, from which an export builds the network again."""
        width = STEM
        self.stem = nn.Sequential(
            nn.Conv2d(channels_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential()
        left = list(kinds)
        for blocks in STAGES:
            for place in range(blocks):
                factor = 1 if place else 2
                self.blocks.append(MacroBlock(left.pop(0), width, factor * width, factor))
                width *= factor
        self.head = nn.Sequential(nn.Conv2d(width, HEAD, 1, bias=False), nn.BatchNorm2d(HEAD), nn.ReLU())
        self.classifier = nn.Linear(HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels_in, height, width)`` to logits ``(batch, classes)``."""
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class NASBenchMacroSpace(ProductSpace):
    """The 6,561 architectures of NAS-Bench-Macro: chains of eight blocks, each of one of three kinds.

    The text of an architecture is its published name, one digit per block: ``0`` for an identity, ``1`` for a block of
    MobileNetV2 with an expansion of 3 and kernels of 3, ``2`` for one with an expansion of 6 and kernels of 5. Where
    the identity changes the shape, in the first block of a stage, it is a 1x1 convolution with batch norm.

    An identity elsewhere leaves its block out, so that its place within the stage does not matter: there are 3,969
    different networks, and ``key`` is the published name with the identities of each stage at its end. The published
    results of equal names of this form are the same.

    Networks have the published channels, whatever their size elsewhere. They take images of any size.

    References:
        1. Su, Huang, Li, You, Wang, Qian, Zhang, Xu: Prioritized Architecture Sampling with Monto-Carlo Tree Search,
           CVPR 2021, https://arxiv.org/abs/2103.11922

    Example:
        ```python
        space = NASBenchMacroSpace()
        network = space.network(space.parse("12211222"), num_classes=10, image_shape=(3, 32, 32))
        ```
    """

    @property
    def values(self) -> Sequence[Sequence[str]]:
        """Names of the kinds of every block."""
        return (("identity", "mb3_k3", "mb6_k5"),) * sum(STAGES)

    def parse(self, name: str) -> Architecture:
        """Return the architecture with a published name.

        Args:
            name: Eight digits from 0 to 2.

        Raises:
            ArchitectureError: It is something else.
        """
        if len(name) != sum(STAGES) or not set(name) <= set("012"):
            raise ArchitectureError(f"{name!r:.100} is not a name such as 12211222, of eight digits from 0 to 2.")
        return self.architecture([int(digit) for digit in name])

    def text(self, architecture: Architecture) -> str:
        """Return the published name: one digit per block.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        return "".join(map(str, architecture.choices))

    def key(self, architecture: Architecture) -> str:
        """Return the published name of the same network that has the identities of each stage at its end.

        Args:
            architecture: A point of this space.
        """
        name, parts = self.text(architecture), []
        for blocks in STAGES:
            kept = name[0] + name[1:blocks].replace("0", "")
            parts.append(kept.ljust(blocks, "0"))
            name = name[blocks:]
        return "".join(parts)

    def features(self, architecture: Architecture) -> Features:
        """Return which kind every block of the network has, and how many there are of each kind in every stage.

        Args:
            architecture: A point of this space.
        """
        name = self.key(architecture)
        counts: dict[str, float] = {}
        for stage, blocks in enumerate(STAGES):
            start = sum(STAGES[:stage])
            for digit in name[start : start + blocks]:
                counts[f"{stage}={digit}"] = counts.get(f"{stage}={digit}", 0.0) + 1.0
        return {"blocks": {f"{place}={digit}": 1.0 for place, digit in enumerate(name)}, "stages": counts}

    def network(
        self, architecture: Architecture, *, num_classes: int, image_shape: Sequence[int]
    ) -> NASBenchMacroNetwork:
        """See ``SearchSpace.network``."""
        self.check(architecture)
        return NASBenchMacroNetwork(architecture.choices, num_classes, image_shape[0])
