"""All edges that leave one or two states of a DARTS cell, evaluated together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.wave_dense import Dense
from lightning_nas.spaces.wave_path import Part, Path, Scores
from lightning_nas.spaces.wave_wide import Wide

DENSE_PIXELS = 64
"""Images of at most so many pixels are convolved as one matrix over all pixels: see ``Wave``."""


class Convolution(NamedTuple):
    """A convolutional operation: depthwise and pointwise, once or (separable) twice."""

    name: str
    kernel: int
    dilation: int

    @property
    def taps(self) -> int:
        """Weights of one channel."""
        return self.kernel**2


def convolutions(operations: Sequence[str]) -> list[Convolution]:
    """The convolutional ones, separable before dilated."""
    named = [name for name in operations if "conv" in name]
    kinds = [Convolution(name, int(name[-1]), 1 if name.startswith("sep") else 2) for name in named]
    return sorted(kinds, key=lambda kind: kind.dilation)


class Wave(nn.Module):
    """Every operation from ``sources`` states to ``targets`` nodes, and their weighted sum at each node.

    What the edges share is computed once a state: ReLU, pooling and its batch norm. The weights of one kind of
    operation are stored stacked over the edges, and every depthwise-pointwise pair is followed by a batch norm without
    parameters, which is folded into the pointwise map together with the mixture's factors; so a node's sum over
    sources and operations is one matrix product a kind of operation.

    Two ways of computing give equal results. Small images are *dense*: ``(channels, pixels, batch)`` tensors, all kinds
    of convolution in one batched matrix product, because the number of calls decides there. Others are *wide*:
    channels_last tensors with all edges side by side as groups of channels.

    Args:
        operations: Names of the operations, in the order of the mixture's columns.
        sources: States read: 2 for the inputs of the cell, else 1.
        targets: Nodes that read them.
        channels: Channels of the operations.
        stride: 2 halves height and width.
    """

    order: Tensor
    batches: Tensor

    def __init__(self, operations: Sequence[str], sources: int, targets: int, channels: int, stride: int) -> None:
        super().__init__()
        self.operations = tuple(operations)
        self.sources, self.targets, self.channels, self.stride = sources, targets, channels, stride
        self.kinds = convolutions(operations)
        self.separable = sum(kind.dilation == 1 for kind in self.kinds)
        self.pools = [name for name in operations if "pool" in name]
        self.reduces = "skip_connect" in operations and stride == 2
        self.identity = "skip_connect" in operations and stride == 1
        used = [kind.name for kind in self.kinds] + self.pools + ["skip_connect"] * ("skip_connect" in operations)
        order = torch.tensor([self.operations.index(name) for name in used], dtype=torch.long)
        self.register_buffer("order", order, persistent=False)
        self.shapes: dict[str, tuple[int, ...]] = {}
        edges, count = (targets, sources), len(self.kinds)
        if self.kinds:
            taps = [kind.taps for kind in self.kinds]
            self._uniform("depthwise_1", taps, *edges, channels)
            self._uniform("pointwise_2", [channels], targets, count, sources, channels)
            self._statistics("2", targets, count, sources, channels)
        if self.separable:
            self._uniform("depthwise_2", taps[: self.separable], *edges, channels)
            self._uniform("pointwise_1", [channels], targets, self.separable, sources, channels)
            self._statistics("1", targets, self.separable, sources, channels)
        if self.reduces:
            self._uniform("reduce_1", [channels], *edges, channels // 2)
            self._uniform("reduce_2", [channels], *edges, channels - channels // 2)
            self._statistics("reduce", *edges, channels)
        if self.pools:
            self._statistics("pool", len(self.pools), sources, channels)
        self.normalises = bool(self.kinds or self.pools or self.reduces)
        if self.normalises:
            self.register_buffer("batches", torch.tensor(0, dtype=torch.long))

    def _uniform(self, name: str, fans: Sequence[int], *shape: int) -> None:
        """Add weights drawn as ``nn.Conv2d`` draws them: uniform within ``1 / sqrt(fan)``."""
        parts = [torch.empty(*shape, n).uniform_(-(n**-0.5), n**-0.5) for n in fans]
        # of no more dimensions than three: a change of the memory format, which is for images, leaves them alone
        self.register_parameter(name, nn.Parameter(torch.cat(parts, dim=-1).flatten(1, -2)))
        self.shapes[name] = (*shape, sum(fans))

    def _statistics(self, name: str, *shape: int) -> None:
        self.register_buffer(f"mean_{name}", torch.zeros(shape).flatten(0, -2))
        self.register_buffer(f"var_{name}", torch.ones(shape).flatten(0, -2))
        self.shapes |= {f"mean_{name}": shape, f"var_{name}": shape}

    def forward(self, states: Sequence[Tensor], weights: Tensor, scores: Scores | None = None) -> Tensor:
        """Sum at every node.

        Args:
            states: What enters the operations, ``(batch, channels, height, width)`` each.
            weights: Factors of the operations, ``(targets, sources, operations)``.
            scores: Scores of operations, see ``Attention.operation_scores``.

        Returns:
            ``(batch, targets * channels, height, width)``.
        """
        if self.training and self.normalises:
            self.batches.add_(1)
        height, width = states[0].shape[2:]
        dense = height * width <= DENSE_PIXELS
        path: Path = Dense(self, states) if dense else Wide(self, states)
        return path.mix(weights, scores)

    def parts(self, targets: int) -> list[Part]:
        """The weights, so many targets at a time."""
        starts = range(0, self.targets, targets)
        counts = [min(targets, self.targets - start) for start in starts]
        split = {
            name: p.view(self.shapes[name]).split(counts) if len(counts) > 1 else [p.view(self.shapes[name])]
            for name, p in self.named_parameters(recurse=False)
        }
        return [
            Part(start, count, {name: tensors[i] for name, tensors in split.items()})
            for i, (start, count) in enumerate(zip(starts, counts, strict=True))
        ]

    def statistics(self, name: str, part: Part | None = None) -> tuple[Tensor, Tensor]:
        """Running mean and variance, ``(groups, channels)``."""
        mean, variance = getattr(self, f"mean_{name}"), getattr(self, f"var_{name}")
        if part is None or part.targets == self.targets:
            return mean, variance
        groups = len(mean) // self.targets
        start, count = part.start * groups, part.targets * groups
        return mean.narrow(0, start, count), variance.narrow(0, start, count)

    def reduction(self, part: Part) -> Tensor:
        """The two convolutions of the strided skip as one map of both, ``(targets, sources, out, 2 * in)``."""
        first, second = part.weights["reduce_1"], part.weights["reduce_2"]
        return torch.cat([F.pad(first, (0, self.channels)), F.pad(second, (self.channels, 0))], dim=2)
