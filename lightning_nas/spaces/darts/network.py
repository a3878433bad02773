"""The ordinary network of a DARTS architecture.

An exported network carries this source code with it, so this file imports only torch and the modules of operations.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.operation_modules import MODULES, FactorizedReduce, ReLUConvBN, drop_path
from lightning_nas.spaces.stems import full_size_stem, quarter_stem

Node = Sequence[tuple[Any, int]]
"""The inputs of a node: pairs of operation and source. A built-in operation is given by its name, any other as an
object whose method ``module`` makes its module."""


class DARTSCell(nn.Module):
    """A cell whose nodes sum their chosen operations; the output is the concatenation of the nodes.

    Args:
        chosen: The inputs of every node.
        channels_before: Channels of the outputs of the two cells before.
        channels: Channels of the operations.
        reduction: Whether edges from the two inputs halve height and width.
        reduction_before: Whether the cell before was a reduction cell.
    """

    def __init__(
        self,
        chosen: Sequence[Node],
        channels_before: tuple[int, int],
        channels: int,
        reduction: bool,
        reduction_before: bool,
    ) -> None:
        super().__init__()
        preprocess = FactorizedReduce if reduction_before else lambda c_in, c: ReLUConvBN(c_in, c, 1, 1, 0)
        self.preprocess0 = preprocess(channels_before[0], channels)
        self.preprocess1 = ReLUConvBN(channels_before[1], channels, 1, 1, 0)
        self.inputs = [[source for _, source in node] for node in chosen]
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                operation_module(operation, channels, 2 if reduction and source < 2 else 1)
                for operation, source in node
            )
            for node in chosen
        )

    def forward(self, s0: Tensor, s1: Tensor, drop: float = 0.0) -> Tensor:
        """Map the outputs of the two cells before to ``(batch, nodes * channels, height, width)``.

        Args:
            s0: Output of the cell before the last one.
            s1: Output of the last cell.
            drop: Probability that training drops the path of an operation.
        """
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node, sources in enumerate(self.inputs):
            outputs = []
            for operation, source in zip(self.nodes[node].children(), sources, strict=True):
                y = operation(states[source])
                # paths through an identity are never dropped, as in the public code
                if drop > 0 and self.training and not isinstance(operation, nn.Identity):
                    y = drop_path(y, drop)
                outputs.append(y)
            states.append(sum(outputs[1:], outputs[0]))
        return torch.cat(states[2:], dim=1)


def operation_module(operation: Any, channels: int, stride: int) -> nn.Module:
    """Build the module of an operation.

    Args:
        operation: The name of a built-in operation, or an object with a method ``module``.
        channels: Channels of its input and output.
        stride: Its stride.
    """
    if isinstance(operation, str):
        return MODULES[operation](channels, stride, True)
    module: nn.Module = operation.module(channels, stride, True)
    return module


class AuxiliaryHead(nn.Sequential):
    """A classifier on the output of an inner cell, for training; the published one where its input has 8x8 pixels.

    Args:
        channels: Channels of the input.
        num_classes: Number of classes.
        stride: Stride of the pooling.
        last_bn: Whether a batch norm follows the last convolution.
    """

    def __init__(self, channels: int, num_classes: int, stride: int, last_bn: bool) -> None:
        super().__init__(
            nn.ReLU(),
            nn.AvgPool2d(5, stride, padding=0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            # the published head for ImageNet lacks this one
            nn.BatchNorm2d(768) if last_bn else nn.Identity(),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(768, num_classes),
        )


class DARTSNetwork(nn.Module):
    """A stack of cells with reduction cells at one and two thirds of its depth.

    Args:
        normal: For every node of a normal cell, its ``(operation, source)`` pairs; see ``Node``. Sources 0 and 1 are
            the outputs of the two cells before, 2 is the first node.
        reduce: The same for a reduction cell.
        num_classes: Number of classes.
        channels_in: Channels of an image.
        channels: Channels of the first cell; every reduction cell doubles them.
        cells: Number of cells.
        auxiliary: Whether to add an auxiliary classifier after the second reduction cell.
        imagenet_stem: Whether the stem divides height and width by 8, for images of ImageNet's size.

    Attributes:
        drop: Probability that training drops the path of an operation.
    """

    def __init__(
        self,
        normal: Sequence[Node],
        reduce: Sequence[Node],
        num_classes: int,
        channels_in: int = 3,
        channels: int = 36,
        cells: int = 20,
        auxiliary: bool = False,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "normal": [[(operation, int(source)) for operation, source in node] for node in normal],
            "reduce": [[(operation, int(source)) for operation, source in node] for node in reduce],
            "num_classes": num_classes,
            "channels_in": channels_in,
            "channels": channels,
            "cells": cells,
            "auxiliary": auxiliary,
            "imagenet_stem": imagenet_stem,
        }
        """The constructor arguments, from which an export builds the network again."""
        self.imagenet_stem = imagenet_stem
        if imagenet_stem:
            self.stem = quarter_stem(channels_in, channels)
            self.stem_2 = ReLUConvBN(channels, channels, 3, 2, 1)
            before, reduction_before = (channels, channels), True
        else:
            self.stem = full_size_stem(channels_in, 3 * channels)
            before, reduction_before = (3 * channels, 3 * channels), False
        self.cells = nn.ModuleList()
        self.auxiliary_head: nn.Module | None = None
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduction else 1
            chosen = reduce if reduction else normal
            self.cells.append(DARTSCell(chosen, before, channels, reduction, reduction_before))
            before, reduction_before = (before[1], len(chosen) * channels), reduction
            if auxiliary and i == 2 * cells // 3:
                stride = 2 if imagenet_stem else 3
                self.auxiliary_head = AuxiliaryHead(before[1], num_classes, stride, last_bn=not imagenet_stem)
        self.auxiliary_after = 2 * cells // 3
        self.classifier = nn.Linear(before[1], num_classes)
        self.drop = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels_in, height, width)`` to logits ``(batch, classes)``."""
        return self.forward_auxiliary(x)[0]

    def forward_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and in training those of the auxiliary classifier, if there is one."""
        s1 = self.stem(x)
        s0, s1 = (s1, self.stem_2(s1)) if self.imagenet_stem else (s1, s1)
        auxiliary = None
        for i, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, self.drop)
            if self.auxiliary_head is not None and self.training and i == self.auxiliary_after:
                auxiliary = self.auxiliary_head(s1)
        pooled = F.adaptive_avg_pool2d(s1, 1).flatten(1)
        return self.classifier(pooled), auxiliary
