"""Waves on larger images, where the bytes that are moved decide."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.spaces.grouped import (
    Moments,
    average_pool,
    depthwise,
    fold,
    from_grids,
    moments,
    to_grids,
)
from lightning_nas.spaces.wave_path import Path

if TYPE_CHECKING:
    from lightning_nas.spaces.wave import Wave

CHUNK_BYTES = 4 * 2**20
"""Targets are taken together as long as their tensors are smaller: what fits into a cache is passed over quickly."""


class Wide(Path):
    """Larger images: all edges side by side as channels of channels_last tensors."""

    def __init__(self, wave: "Wave", states: Sequence[Tensor]) -> None:
        super().__init__(wave, states)
        x = states[0] if len(states) == 1 else torch.cat(list(states), dim=1)
        self.x = x.contiguous(memory_format=torch.channels_last)
        self.count = self.batch * self.height_out * self.width_out
        even = self.height % 2 == 0 and self.width % 2 == 0
        # a GPU has no slow path for dilated convolutions that would pay the copies
        self.grids = wave.stride == 1 and even and not self.x.is_cuda

    def prepare(self) -> None:
        """See ``Path``."""
        wave = self.wave
        relu = self.x.relu() if wave.kinds or wave.reduces else self.x
        self.relu = relu
        if len(wave.kinds) > wave.separable:
            # every second pixel of a dilated convolution with even padding is an undilated one
            sampled = relu[:, :, ::2, ::2] if wave.stride == 2 else to_grids(relu) if self.grids else relu
            self.sampled = sampled.contiguous(memory_format=torch.channels_last)
        if wave.reduces:
            shifted = F.pad(relu, (0, self.width % 2, 0, self.height % 2))[:, :, 1::2, 1::2]
            pair = torch.stack(
                [x.unflatten(1, (wave.sources, wave.channels)) for x in (relu[:, :, ::2, ::2], shifted)],
                dim=2,
            )
            self.halves = pair.flatten(1, 3).contiguous(memory_format=torch.channels_last)  # (B, S * 2 * C, ...)
        self.free = self._free()

    def targets_at_once(self) -> int:
        """See ``Path``."""
        size = self.count * self.wave.sources * self.wave.channels * self.x.element_size()
        return max(1, CHUNK_BYTES // size)

    def convolve(self) -> list[Tensor]:
        """What the last pointwise maps read, a tensor a kind: ``(B, T * S * C, ...)``."""
        wave = self.wave
        taps = [kind.taps for kind in wave.kinds]
        firsts = [w.reshape(-1, w.shape[-1]) for w in self.part.weights["depthwise_1"].split(taps, dim=-1)]
        n, results = wave.separable, []
        if n:
            x = self._repeated(self.relu)
            inner = [depthwise(x, w, wave.stride, 1) for w in firsts[:n]]
            seconds = self.part.weights["depthwise_2"].split(taps[:n], dim=-1)
            results += [
                depthwise(y, w.reshape(-1, w.shape[-1]), 1, 1)
                for y, w in zip(self._between(inner), seconds, strict=True)
            ]
        if n < len(firsts):
            x = self._repeated(self.sampled)
            dilation = 1 if self.grids or wave.stride == 2 else 2
            results += [depthwise(x, w, 1, dilation) for w in firsts[n:]]
        return results

    def _repeated(self, x: Tensor) -> Tensor:
        """All sources once a target."""
        return x.repeat(1, self.part.targets, 1, 1) if self.part.targets > 1 else x

    def _between(self, inner: list[Tensor]) -> list[Tensor]:
        """Pointwise map, batch norm and ReLU between the two halves of separable convolutions."""
        wave = self.wave
        groups = self.part.targets * wave.sources
        measured = self._measured(inner) if wave.training else None
        weight, bias = fold(
            self.part.weights["pointwise_1"].flatten(0, 2), measured, wave.statistics("1", self.part), None
        )
        shape = (self.part.targets, wave.separable, wave.sources)
        weight, bias = weight.unflatten(0, shape), bias.unflatten(0, shape)
        return [
            F.conv2d(d, w.reshape(-1, wave.channels, 1, 1), b.reshape(-1), groups=groups).relu_()
            for d, w, b in zip(inner, weight.unbind(1), bias.unbind(1), strict=True)
        ]

    def _measured(self, tensors: list[Tensor]) -> Moments:
        """Moments of wide tensors, one a kind, in the order (T, K, S)."""
        wave = self.wave
        pairs = [moments(x, self.part.targets * wave.sources) for x in tensors]
        mean, covariance = (
            torch.stack([p[i].unflatten(0, (self.part.targets, wave.sources)) for p in pairs], dim=1).flatten(0, 2)
            for i in (0, 1)
        )
        return mean, covariance, self.count

    def _free(self) -> Tensor | None:
        """Pools and identity as planes, ``(operations * S, B, H, W, C)``."""
        wave = self.wave
        pools = [
            average_pool(self.x, wave.stride) if name.startswith("avg") else F.max_pool2d(self.x, 3, wave.stride, 1)
            for name in wave.pools
        ]
        parts = [self._normalise(torch.cat(pools, dim=1))] if pools else []
        if wave.identity:
            parts.append(self.x)
        if not parts:
            return None
        planes = [p.permute(0, 2, 3, 1).unflatten(3, (-1, wave.channels)).movedim(3, 0) for p in parts]
        return torch.cat(planes)

    def measure(self) -> Moments:
        """See ``Path``."""
        return self._measured(self.inputs)

    def measure_halves(self) -> Moments:
        """See ``Path``."""
        mean, covariance = moments(self.halves, self.wave.sources)
        return mean.repeat(self.part.targets, 1), covariance.repeat(self.part.targets, 1, 1), self.count

    def pooled_inputs(self) -> Tensor:
        """See ``Path``."""
        wave = self.wave
        shape = (-1, self.batch, self.part.targets, wave.sources, wave.channels)
        pooled = [x.mean((2, 3)).view(shape).mean(0) for x in self.inputs]  # the sub-grids of a sample are averaged
        return torch.stack(pooled).permute(2, 0, 3, 4, 1)

    def pooled_halves(self) -> Tensor:
        """See ``Path``."""
        return self.halves.mean((2, 3)).view(self.batch, self.wave.sources, -1).permute(1, 2, 0)

    def pooled_free(self) -> Tensor:
        """See ``Path``."""
        assert self.free is not None
        pooled: Tensor = self.free.mean((2, 3)).unflatten(0, (-1, self.wave.sources))
        return pooled.transpose(2, 3)

    def project(self, weight: Tensor, bias: Tensor, factors: Tensor | None) -> Tensor:
        """See ``Path``."""
        wave = self.wave
        total: Tensor | None = None
        gridded: Tensor | None = None
        for i, (x, w) in enumerate(zip(self.inputs, weight.unbind(1), strict=True)):
            if factors is not None:
                per_channel = factors[:, :, i].flatten(1).repeat_interleave(wave.channels, dim=1)
                x = x * per_channel.repeat(x.shape[0] // self.batch, 1)[:, :, None, None]
            w = w.transpose(1, 2).reshape(self.part.targets * wave.channels, -1, 1, 1)  # (T * out, S * C)
            constant = bias.flatten() if i == 0 and factors is None else None
            y = F.conv2d(x, w, constant, groups=self.part.targets)
            if self.grids and wave.kinds[i].dilation == 2:
                gridded = y if gridded is None else gridded.add_(y)
            else:
                total = y if total is None else total.add_(y)
        if gridded is not None:
            total = from_grids(gridded) if total is None else total.add_(from_grids(gridded))
        assert total is not None
        return total if factors is None else total + bias.flatten(1)[:, :, None, None]

    def project_halves(self, weight: Tensor, bias: Tensor, factors: Tensor | None, total: Tensor | None) -> Tensor:
        """See ``Path``."""
        wave = self.wave
        weight = weight.transpose(1, 2).flatten(2)  # (T, out, S * 2 * C)
        if factors is None:
            y = F.conv2d(self.halves, weight.reshape(-1, weight.shape[2], 1, 1), bias.flatten())
        else:
            per_channel = factors.repeat_interleave(2 * wave.channels, dim=2).flatten(1)
            x = self.halves.repeat(1, self.part.targets, 1, 1) * per_channel[:, :, None, None]
            y = F.conv2d(x, weight.reshape(-1, weight.shape[2], 1, 1), groups=self.part.targets)
            y = y + bias.flatten(1)[:, :, None, None]
        return y if total is None else total + y

    def add_free(self, weights: Tensor | None, factors: Tensor | None, total: Tensor | None) -> Tensor:
        """See ``Path``."""
        assert self.free is not None
        if factors is not None:
            y = torch.einsum("btk,kbhwc->bhwtc", factors, self.free)
        else:
            assert weights is not None
            y = (weights @ self.free.flatten(1)).view(-1, *self.free.shape[1:]).movedim(0, 3)
        if total is None:
            return y.flatten(3).permute(0, 3, 1, 2)
        pixels: Tensor = total.permute(0, 2, 3, 1).unflatten(3, (self.part.targets, -1))
        return (pixels + y).flatten(3).permute(0, 3, 1, 2)

    def finish(self, total: Tensor | None) -> Tensor:
        """See ``Path``."""
        if total is not None:
            return total
        return self.x.new_zeros(self.batch, self.part.targets * self.wave.channels, self.height_out, self.width_out)
