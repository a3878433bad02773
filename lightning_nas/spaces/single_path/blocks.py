"""Choice blocks of single-path spaces, and the ordinary network that is a chain of them."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError


class ChoiceBlock(ABC):
    """One of the blocks that every place of a single-path space may take.

    A block of your own is a subclass in any importable file. Its constructor arguments are JSON values (numbers, text,
    booleans, null, lists of them), and it keeps each as the attribute of the same name: artifacts make it again from
    these. Where networks with it shall be exported as one plain file, its module imports only torch, the standard
    library and modules that do the same.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """One word, by which texts and restrictions of a space name the block."""

    @abstractmethod
    def module(self, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        """Make the block for one place of a network.

        Batch norms are ``nn.BatchNorm2d`` with affine parameters and the default momentum; a supernet takes the
        parameters away where it is to have none.

        Args:
            channels_in: Channels of its input ``(batch, channels_in, height, width)``.
            channels_out: Channels of its output ``(batch, channels_out, ceil(height / stride), ceil(width / stride))``.
            stride: By which it shrinks height and width.

        Raises:
            ConfigError: The block cannot have these channels.
        """

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments by name: the attributes of these names.

        Raises:
            ConfigError: There is no such attribute.
        """
        names = list(inspect.signature(type(self)).parameters)
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise ConfigError(
                f"{type(self).__name__} has no attributes {missing}; it is to keep each of its constructor arguments "
                f"{names} as the attribute of that name. Set them in __init__."
            )
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        """Source that makes the block again."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments().items())})"


def convolution(channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """A convolution with batch norm and ReLU.

    Args:
        channels_in: Of the input.
        channels_out: Of the output.
        kernel: Side of the convolution's kernel.
        stride: Of the convolution.
    """
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def depthwise(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """A depthwise convolution with batch norm.

    Args:
        channels: Of input and output.
        kernel: Side of the convolution's kernel.
        stride: Of the convolution.
    """
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
    )


class TwoBranches(nn.Module):
    """Two branches whose outputs are concatenated: what passes, and what ``main`` computes.

    Without a projection every second channel passes as it is, and ``main`` reads the others: this is the channel
    shuffle of ShuffleNetV2, before the block instead of behind it. With one, both branches read all channels.

    Args:
        main: The branch that computes.
        projection: The other branch.
    """

    def __init__(self, main: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.main = main
        self.projection = projection

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)``; see ``ChoiceBlock.module`` for the output's shape."""
        if self.projection is None:
            return torch.cat((x[:, ::2], self.main(x[:, 1::2])), 1)
        return torch.cat((self.projection(x), self.main(x)), 1)


def projection(channels: int, kernel: int, stride: int) -> nn.Sequential | None:
    """The branch beside the main one: none where the stride is 1.

    Args:
        channels: Of input and output.
        kernel: Side of the depthwise convolution's kernel.
        stride: Of the block.
    """
    if stride == 1:
        return None
    return nn.Sequential(depthwise(channels, kernel, stride), convolution(channels, channels))


def branch_channels(channels_in: int, channels_out: int, stride: int) -> tuple[int, int, int]:
    """Channels that the main branch reads, has between its layers, and writes.

    Args:
        channels_in: Of the block.
        channels_out: Of the block.
        stride: Of the block.

    Raises:
        ConfigError: The block cannot have these channels.
    """
    read = channels_in // 2 if stride == 1 else channels_in
    if (stride == 1 and channels_in % 2) or channels_out <= max(read, 1):
        raise ConfigError(
            f"A block of stride {stride} from {channels_in} to {channels_out} channels was asked for; expected are an "
            "even number to more than half of it with stride 1, and a number to a larger one with other strides. "
            "Choose other widths."
        )
    return read, channels_out // 2, channels_out - read


class ShuffleBlock(ChoiceBlock):
    """A block of ShuffleNetV2: a depthwise convolution between two 1x1 convolutions, on half of the channels.

    References:
        1. Ma, Zhang, Zheng, Sun: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018,
           https://arxiv.org/abs/1807.11164

    Args:
        kernel: Side of the depthwise convolution's kernel, odd and at least 3 (the paper: 3, 5 and 7).

    Raises:
        ConfigError: ``kernel`` is another number.
    """

    def __init__(self, kernel: int = 3) -> None:
        if type(kernel) is not int or kernel < 3 or kernel % 2 == 0:
            raise ConfigError(f"kernel is {kernel!r:.50}; it must be an odd integer from 3 on.")
        self.kernel = kernel

    @property
    def name(self) -> str:
        """``shuffle3``, ``shuffle5``, ..."""
        return f"shuffle{self.kernel}"

    def module(self, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        """See ``ChoiceBlock.module``."""
        read, middle, written = branch_channels(channels_in, channels_out, stride)
        main = nn.Sequential(
            convolution(read, middle),
            depthwise(middle, self.kernel, stride),
            convolution(middle, written),
        )
        return TwoBranches(main, projection(read, self.kernel, stride))


class XceptionBlock(ChoiceBlock):
    """Like a block of ShuffleNetV2 with three depthwise 3x3 convolutions, each before a 1x1 convolution.

    References:
        1. Chollet: Xception: Deep Learning with Depthwise Separable Convolutions, CVPR 2017,
           https://arxiv.org/abs/1610.02357
    """

    @property
    def name(self) -> str:
        """``xception``."""
        return "xception"

    def module(self, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        """See ``ChoiceBlock.module``."""
        read, middle, written = branch_channels(channels_in, channels_out, stride)
        main = nn.Sequential(
            depthwise(read, 3, stride),
            convolution(read, middle),
            depthwise(middle, 3, 1),
            convolution(middle, middle),
            depthwise(middle, 3, 1),
            convolution(middle, written),
        )
        return TwoBranches(main, projection(read, 3, stride))


def block_sizes(
    stem: int, widths: Sequence[int], depths: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Channels in, channels out and stride of every block of a chain.

    Args:
        stem: Channels of what the first block reads.
        widths: Channels of every stage.
        depths: Blocks of every stage.
        strides: Of the first block of every stage.
    """
    sizes, channels = [], stem
    for width, depth, stride in zip(widths, depths, strides, strict=True):
        for i in range(depth):
            sizes.append((channels, width, 1 if i else stride))
            channels = width
    return sizes


class SinglePathNetwork(nn.Module):
    """A chain of blocks between a 3x3 convolution and a classifier.

    Args:
        blocks: The blocks in order.
        num_classes: Width of the classifier.
        channels_in: Channels of an image.
        widths: Channels of every stage.
        depths: Blocks of every stage.
        strides: Of the first block of every stage.
        stem: Channels of the first convolution.
        stem_stride: Its stride.
        last: Channels of the 1x1 convolution behind the blocks.
        dropout: Probability with which its outputs are dropped before the classifier.
    """

    def __init__(
        self,
        blocks: Sequence[ChoiceBlock],
        num_classes: int,
        channels_in: int,
        widths: Sequence[int],
        depths: Sequence[int],
        strides: Sequence[int],
        stem: int,
        stem_stride: int,
        last: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "blocks": list(blocks),
            "num_classes": num_classes,
            "channels_in": channels_in,
            "widths": list(widths),
            "depths": list(depths),
            "strides": list(strides),
            "stem": stem,
            "stem_stride": stem_stride,
            "last": last,
            "dropout": dropout,
        }
        """What this network was made with: an export makes it again from them."""
        self.stem = convolution(channels_in, stem, 3, stem_stride)
        sizes = block_sizes(stem, widths, depths, strides)
        self.blocks = nn.Sequential(*(block.module(*size) for block, size in zip(blocks, sizes, strict=True)))
        self.last = convolution(widths[-1], last)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels_in, height, width)`` to logits ``(batch, classes)``."""
        x = self.last(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits
