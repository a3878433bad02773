"""Choice blocks of single-path spaces, and the ordinary network that is a chain of them.

An exported network carries this source code with it, so this file needs only torch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.rebuildable import Rebuildable


class ChoiceBlock(Rebuildable, ABC):
    """One of the blocks that each position of a single-path space can take.

    Write your own as a subclass in any module that can be imported. Its constructor arguments are JSON values (numbers,
    text, booleans, null and lists of them), and each is kept as the attribute of the same name, so that artifacts can
    store the block. If found networks shall be exported as one plain Python file, the module that defines the block
    imports nothing but torch, the standard library and modules that do the same.

    Example:
        ```python
        class Plain(ChoiceBlock):
            name = "plain"

            def module(self, channels_in: int, channels_out: int, stride: int) -> nn.Module:
                return nn.Sequential(
                    nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
                    nn.BatchNorm2d(channels_out),
                    nn.ReLU(inplace=True),
                )
        ```
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """One word, by which texts and restrictions of a space name the block."""

    @abstractmethod
    def module(self, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        """Build the module of the block for one position of a network.

        Batch norms are ``nn.BatchNorm2d`` with affine parameters and the default momentum; a supernet removes the
        affine parameters where it must not have any.

        Args:
            channels_in: Channels of the input ``(batch, channels_in, height, width)``.
            channels_out: Channels of the output ``(batch, channels_out, ceil(height / stride), ceil(width / stride))``.
            stride: Factor by which the block divides height and width.

        Raises:
            ConfigError: The block cannot have these channels.
        """


def convolution(channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Build a convolution with batch norm and ReLU.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kernel: Side of the kernel.
        stride: Stride of the convolution.
    """
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def depthwise(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Build a depthwise convolution with batch norm.

    Args:
        channels: Channels of the input and of the output.
        kernel: Side of the kernel.
        stride: Stride of the convolution.
    """
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
    )


class TwoBranches(nn.Module):
    """A main branch beside a shortcut, whose outputs are concatenated.

    Without a projection, every second channel passes unchanged, and the main branch reads the others: this is the
    channel shuffle of ShuffleNetV2, before the block instead of after it. With a projection, both branches read all
    channels.

    Args:
        main: The main branch.
        projection: Module of the shortcut, or None for the identity.
    """

    def __init__(self, main: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.main = main
        self.projection = projection

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, height, width)``; see ``ChoiceBlock.module`` for the shape of the output."""
        if self.projection is None:
            return torch.cat((x[:, ::2], self.main(x[:, 1::2])), 1)
        return torch.cat((self.projection(x), self.main(x)), 1)


def projection(channels: int, kernel: int, stride: int) -> nn.Sequential | None:
    """Build the shortcut beside the main branch; None at stride 1.

    Args:
        channels: Channels of the input and of the output.
        kernel: Side of the depthwise kernel.
        stride: Stride of the block.
    """
    if stride == 1:
        return None
    return nn.Sequential(depthwise(channels, kernel, stride), convolution(channels, channels))


def branch_channels(channels_in: int, channels_out: int, stride: int) -> tuple[int, int, int]:
    """Return the channels of the main branch: of its input, between its layers, and of its output.

    Args:
        channels_in: Channels of the input of the block.
        channels_out: Channels of the output of the block.
        stride: Stride of the block.

    Raises:
        ConfigError: The block cannot have these channels.
    """
    read = channels_in // 2 if stride == 1 else channels_in
    if (stride == 1 and channels_in % 2) or channels_out <= max(read, 1):
        raise ConfigError(
            f"A block of stride {stride} cannot map {channels_in} to {channels_out} channels. At stride 1, the number "
            "of input channels must be even and the output must have more than half as many; at other strides, the "
            "output must have more channels than the input. Choose other widths."
        )
    return read, channels_out // 2, channels_out - read


class ShuffleBlock(ChoiceBlock):
    """A block of ShuffleNetV2: a depthwise convolution between two 1x1 convolutions, on half of the channels.

    References:
        1. Ma, Zhang, Zheng, Sun: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018,
           https://arxiv.org/abs/1807.11164

    Example:
        ```yaml
        choices:
          - {class_path: ShuffleBlock, init_args: {kernel: 3}}
          - {class_path: ShuffleBlock, init_args: {kernel: 5}}
        ```

    Args:
        kernel: Side of the depthwise kernel, odd and at least 3 (the SPOS paper: 3, 5 and 7).

    Raises:
        ConfigError: ``kernel`` is another number.
    """

    def __init__(self, kernel: int = 3) -> None:
        if type(kernel) is not int or kernel < 3 or kernel % 2 == 0:
            raise ConfigError(f"kernel is {kernel!r:.50}; it must be an odd integer of at least 3.")
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
    """A block like that of ShuffleNetV2 with three depthwise 3x3 convolutions, each followed by a 1x1 convolution.

    References:
        1. Chollet: Xception: Deep Learning with Depthwise Separable Convolutions, CVPR 2017,
           https://arxiv.org/abs/1610.02357

    Example:
        ```yaml
        choices:
          - {class_path: ShuffleBlock}
          - {class_path: XceptionBlock}
        ```
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
    """Return input channels, output channels and stride of every block of a chain.

    Args:
        stem: Channels of the input of the first block.
        widths: Channels of each stage.
        depths: Number of blocks of each stage.
        strides: Stride of the first block of each stage; the others have stride 1.
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
        num_classes: Number of classes.
        channels_in: Channels of an image.
        widths: Channels of each stage.
        depths: Number of blocks of each stage.
        strides: Stride of the first block of each stage.
        stem: Channels of the first convolution.
        stem_stride: Stride of the first convolution.
        last: Channels of the 1x1 convolution after the blocks.
        dropout: Probability of dropout before the classifier.
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
        """The constructor arguments, from which an export builds the network again."""
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
