"""Kernel of fused edges for larger images, where memory traffic decides the speed."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.spaces.darts.edge_weights import EdgeSlice, EdgeWeights
from lightning_nas.spaces.darts.kernel_base import EdgeKernel
from lightning_nas.spaces.kernels import (
    Moments,
    average_pool,
    depthwise,
    from_grids,
    moments,
    pointwise,
    to_grids,
)
from lightning_nas.spaces.operation_modules import every_second
from lightning_nas.spaces.operations import AveragePooling

THREAD_BYTES = 2**20
"""Size per thread of one target's edges from which on a CPU computes targets one by one."""


class TiledSources:
    """An intermediate result that all slices read, with the sources side by side as channels.

    Args:
        x: ``(batch, sources * channels, height, width)``.
        sources: Number of sources.
    """

    def __init__(self, x: Tensor, sources: int) -> None:
        self.x = x
        self.sources = sources
        self.separate: dict[int, Tensor] = {}

    def selected(self, part: EdgeSlice) -> Tensor:
        """Return the sources of a slice side by side.

        Args:
            part: Slice with all sources or with one of them.
        """
        if len(part.sources) == self.sources:
            return self.x
        (source,) = part.sources
        if source not in self.separate:
            channels = self.x.shape[1] // self.sources
            own = self.x.narrow(1, source * channels, channels)
            self.separate[source] = own.contiguous(memory_format=torch.channels_last)
        return self.separate[source]

    def tiled(self, part: EdgeSlice) -> Tensor:
        """Return the sources of a slice, repeated for each of its targets.

        Args:
            part: Slice with all sources or with one of them.
        """
        x = self.selected(part)
        # unlike Tensor.repeat, a concatenation keeps the memory format
        return torch.cat([x] * len(part.targets), dim=1) if len(part.targets) > 1 else x


class WideKernel(EdgeKernel):
    """Computes all edges side by side as groups of channels of channels_last tensors.

    A dilated convolution with even padding is an undilated convolution on the four sub-grids of every second pixel (at
    stride 2, on one of them). A CPU computes dilated convolutions on a slow path, which this avoids.
    """

    def __init__(self, weights: EdgeWeights, states: Sequence[Tensor], skip_dropout: float = 0.0) -> None:
        super().__init__(weights, states, skip_dropout)
        x = states[0] if len(states) == 1 else torch.cat(list(states), dim=1)
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.count = self.batch * self.height_out * self.width_out
        even = self.height % 2 == 0 and self.width % 2 == 0
        # a GPU has no slow path for dilated convolutions, so that the copies would not pay off
        self.grids = weights.stride == 1 and even and not self.x.is_cuda

    @property
    def one_by_one(self) -> bool:
        """See ``EdgeKernel``.

        Tensors of all targets that still fit into a CPU's cache are processed fast; beyond that, smaller tensors are
        better. GPUs and several threads prefer few calls.
        """
        size = self.count * self.weights.sources * self.weights.channels * self.x.element_size()
        return not self.x.is_cuda and size >= THREAD_BYTES * torch.get_num_threads()

    def prepare(self, weighted: bool) -> None:
        """See ``EdgeKernel``."""
        weights = self.weights
        if not weighted:
            return
        relu = self.x.relu()
        self.relu = TiledSources(relu, weights.sources)
        if any(kind.dilation == 2 for kind in weights.kinds):
            # every second pixel of a dilated convolution with even padding is an undilated one
            sampled = every_second(relu, 0) if weights.stride == 2 else to_grids(relu) if self.grids else relu
            self.sampled = TiledSources(sampled.contiguous(memory_format=torch.channels_last), weights.sources)
        if weights.reduces:
            shifted = F.pad(every_second(relu, 1), (0, self.width % 2, 0, self.height % 2))
            pair = torch.stack(
                [x.unflatten(1, (weights.sources, weights.channels)) for x in (every_second(relu, 0), shifted)],
                dim=2,
            )
            halves = pair.flatten(1, 3).contiguous(memory_format=torch.channels_last)  # (B, S * 2 * C, ...)
            self.halves = TiledSources(halves, weights.sources)
            self.half_moments: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def convolve(self, part: EdgeSlice) -> list[Tensor]:
        """See ``EdgeKernel``; one tensor per kind, ``(B, T * S * C, ...)``."""
        stride = self.weights.stride
        taps = [kind.taps for kind in part.kinds]
        firsts = [w.reshape(-1, w.shape[-1]) for w in part.weights["depthwise_1"].split(taps, dim=-1)]
        n, results = part.separable, []
        if n:
            x = self.relu.tiled(part)
            inner = [depthwise(x, w, stride, 1) for w in firsts[:n]]
            seconds = part.weights["depthwise_2"].split(taps[:n], dim=-1)
            results += [
                depthwise(y, w.reshape(-1, w.shape[-1]), 1, 1)
                for y, w in zip(self._between(part, inner), seconds, strict=True)
            ]
        if n < len(firsts):
            x = self.sampled.tiled(part)
            dilation = 1 if self.grids or stride == 2 else 2
            results += [depthwise(x, w, 1, dilation) for w in firsts[n:]]
        return results

    def _between(self, part: EdgeSlice, inner: list[Tensor]) -> list[Tensor]:
        """Pointwise map, batch norm and ReLU between the two halves of separable convolutions."""
        measured = self.measure(part, inner) if self.training else None
        weight, bias = self.fold(part, "1", part.weights["pointwise_1"], measured, None)
        return [
            pointwise(d, w.flatten(0, 1), b.reshape(-1)).relu_()
            for d, w, b in zip(inner, weight.unbind(1), bias.unbind(1), strict=True)
        ]

    def compute_free(self, columns: Sequence[int]) -> Tensor | None:
        """See ``EdgeKernel``; as planes, ``(operations * S, B, H, W, C)``."""
        weights = self.weights
        operations, stride = weights.operations, weights.stride
        pools = [c for c in columns if c in weights.pools]
        pooled = [
            average_pool(self.x, stride)
            if isinstance(operations[c], AveragePooling)
            else F.max_pool2d(self.x, 3, stride, 1)
            for c in pools
        ]
        parts = [self.normalize_pools(torch.cat(pooled, dim=1), pools)] if pooled else []
        if any(operations[c].is_random for c in columns):
            parts.append(torch.randn_like(every_second(self.x, 0) if stride == 2 else self.x))
        if any(operations[c].is_skip for c in columns):
            parts.append(self.passed_by_skips())
        if not parts:
            return None
        planes = [p.permute(0, 2, 3, 1).unflatten(3, (-1, weights.channels)).movedim(3, 0) for p in parts]
        return torch.cat(planes)

    def measure(self, part: EdgeSlice, inputs: list[Tensor]) -> Moments:
        """See ``EdgeKernel``."""
        shape = (len(part.targets), len(part.sources))
        pairs = [moments(x, shape[0] * shape[1]) for x in inputs]
        mean, covariance = (torch.stack([p[i].unflatten(0, shape) for p in pairs], dim=1).flatten(0, 2) for i in (0, 1))
        return mean, covariance, self.count

    def measure_halves(self, part: EdgeSlice) -> Moments:
        """See ``EdgeKernel``."""
        if part.sources not in self.half_moments:
            self.half_moments[part.sources] = moments(self.halves.selected(part), len(part.sources))
        mean, covariance = self.half_moments[part.sources]
        return mean.repeat(len(part.targets), 1), covariance.repeat(len(part.targets), 1, 1), self.count

    def project(self, part: EdgeSlice, inputs: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        """See ``EdgeKernel``."""
        total: Tensor | None = None
        gridded: Tensor | None = None
        for i, (x, w) in enumerate(zip(inputs, weight.unbind(1), strict=True)):
            constant = bias.flatten() if i == 0 else None
            y = pointwise(x, w.transpose(1, 2).flatten(2), constant)  # weight (T, out, S * C)
            if self.grids and part.kinds[i].dilation == 2:
                gridded = y if gridded is None else gridded.add_(y)
            else:
                total = y if total is None else total.add_(y)
        if gridded is not None:
            total = from_grids(gridded) if total is None else total.add_(from_grids(gridded))
        assert total is not None
        return total

    def project_halves(self, part: EdgeSlice, weight: Tensor, bias: Tensor, total: Tensor | None) -> Tensor:
        """See ``EdgeKernel``."""
        weight = weight.transpose(1, 2).flatten(2)  # (T, out, S * 2 * C)
        y = F.conv2d(self.halves.selected(part), weight.reshape(-1, weight.shape[2], 1, 1), bias.flatten())
        return y if total is None else total + y

    def add_free(self, factors: Tensor, total: Tensor | None) -> Tensor:
        """See ``EdgeKernel``."""
        assert self.free is not None
        y = (factors @ self.free.flatten(1)).view(-1, *self.free.shape[1:]).movedim(0, 3)
        if total is None:
            return y.flatten(3).permute(0, 3, 1, 2)
        pixels: Tensor = total.permute(0, 2, 3, 1).unflatten(3, (-1, self.weights.channels))
        return (pixels + y).flatten(3).permute(0, 3, 1, 2)

    def unstack(self, y: Tensor, targets: int) -> Sequence[Tensor]:
        """See ``EdgeKernel``."""
        pieces: Sequence[Tensor] = y.split(self.weights.channels, dim=1)
        return pieces

    def stack(self, pieces: list[Tensor]) -> Tensor:
        """See ``EdgeKernel``."""
        return torch.cat(pieces, dim=1)

    def finish(self, total: Tensor | None, targets: int) -> Tensor:
        """See ``EdgeKernel``."""
        if total is not None:
            return total
        return self.x.new_zeros(self.batch, targets * self.weights.channels, self.height_out, self.width_out)
