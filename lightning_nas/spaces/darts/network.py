"""The ordinary network of a DARTS architecture.

Only torch and ``operations`` are imported here: an exported network carries this code with it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.operation_modules import MODULES, FactorizedReduce, ReLUConvBN, drop_path


class DARTSCell(nn.Module):
    """A cell: every node sums its chosen operations, the output is the concatenation of the nodes."""

    def __init__(
        self,
        chosen: Sequence[Sequence[tuple[str, int]]],
        channels_before: tuple[int, int],
        channels: int,
        reduction: bool,
        reduction_before: bool,
    ) -> None:
        super().__init__()
        preprocess = FactorizedReduce if reduction_before else lambda c_in, c: ReLUConvBN(c_in, c, 1, 1, 0)
        self.preprocess_0 = preprocess(channels_before[0], channels)
        self.preprocess_1 = ReLUConvBN(channels_before[1], channels, 1, 1, 0)
        self.inputs = [[source for _, source in node] for node in chosen]
        self.nodes = nn.ModuleList(
            nn.ModuleList(MODULES[name](channels, 2 if reduction and source < 2 else 1, True) for name, source in node)
            for node in chosen
        )

    def forward(self, s0: Tensor, s1: Tensor, drop: float = 0.0) -> Tensor:
        """Map the outputs of the two cells before to ``(batch, nodes * channels, height, width)``."""
        states = [self.preprocess_0(s0), self.preprocess_1(s1)]
        for node, sources in enumerate(self.inputs):
            outputs = []
            for operation, source in zip(self.nodes[node].children(), sources, strict=True):
                y = operation(states[source])
                # an identity carries no weights that could be dropped, and a node must not lose all its inputs
                if drop > 0 and self.training and not isinstance(operation, nn.Identity):
                    y = drop_path(y, drop)
                outputs.append(y)
            states.append(sum(outputs[1:], outputs[0]))
        return torch.cat(states[2:], dim=1)


class AuxiliaryHead(nn.Sequential):
    """A classifier on an inner cell's output, for training; at CIFAR's 8x8 features it is the published one."""

    def __init__(self, channels: int, num_classes: int, stride: int, last_bn: bool) -> None:
        super().__init__(
            nn.ReLU(),
            nn.AvgPool2d(5, stride, padding=0, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            # the published ImageNet head lacks this one
            nn.BatchNorm2d(768) if last_bn else nn.Identity(),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(768, num_classes),
        )


class DARTSNetwork(nn.Module):
    """A stack of cells with reductions at one and two thirds of its depth.

    Args:
        normal: For every node of a normal cell its ``(operation, source)`` pairs; sources 0 and 1 are the outputs of
            the two cells before, 2 is the first node.
        reduce: The same of a reduction cell.
        num_classes: Width of the classifier.
        channels_in: Channels of an image.
        channels: Channels of the first cell's operations; a reduction doubles them.
        cells: Number of cells.
        auxiliary: Whether to add the auxiliary classifier after the second reduction.
        imagenet_stem: Whether the stem divides height and width by 8, for images of ImageNet's size.
    """

    def __init__(
        self,
        normal: Sequence[Sequence[tuple[str, int]]],
        reduce: Sequence[Sequence[tuple[str, int]]],
        num_classes: int,
        channels_in: int = 3,
        channels: int = 36,
        cells: int = 20,
        auxiliary: bool = False,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "normal": [[(str(name), int(source)) for name, source in node] for node in normal],
            "reduce": [[(str(name), int(source)) for name, source in node] for node in reduce],
            "num_classes": num_classes,
            "channels_in": channels_in,
            "channels": channels,
            "cells": cells,
            "auxiliary": auxiliary,
            "imagenet_stem": imagenet_stem,
        }
        """What this network was made with, as JSON values: an export makes it again from them."""
        self.imagenet_stem = imagenet_stem
        if imagenet_stem:
            self.stem = nn.Sequential(
                nn.Conv2d(channels_in, channels // 2, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(),
                nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            self.stem_2 = ReLUConvBN(channels, channels, 3, 2, 1)
            before, reduction_before = (channels, channels), True
        else:
            self.stem = nn.Sequential(
                nn.Conv2d(channels_in, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels)
            )
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
        """Probability that training drops the path of an operation."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, channels_in, height, width)`` to logits ``(batch, classes)``."""
        return self.forward_auxiliary(x)[0]

    def forward_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and those of the auxiliary classifier in training."""
        s1 = self.stem(x)
        s0, s1 = (s1, self.stem_2(s1)) if self.imagenet_stem else (s1, s1)
        auxiliary = None
        for i, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, self.drop)
            if self.auxiliary_head is not None and self.training and i == self.auxiliary_after:
                auxiliary = self.auxiliary_head(s1)
        pooled = F.adaptive_avg_pool2d(s1, 1).flatten(1)
        return self.classifier(pooled), auxiliary
