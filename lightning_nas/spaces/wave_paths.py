"""The two ways in which a wave is computed; see ``lightning_nas.spaces.wave.Wave``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.spaces.grouped import (
    EPS,
    MOMENTUM,
    Moments,
    average_matrix,
    average_pool,
    convolution_basis,
    depthwise,
    fold,
    from_grids,
    moments,
    to_grids,
)

if TYPE_CHECKING:
    from lightning_nas.spaces.wave import Wave

Scores = Callable[[Tensor], Tensor]
CHUNK_BYTES = 4 * 2**20
"""Targets are taken together as long as their tensors are smaller: what fits into a cache is passed over quickly."""


class Part(NamedTuple):
    """The weights of a wave for some of its targets."""

    start: int
    targets: int
    weights: dict[str, Tensor]


class Path(ABC):
    """One evaluation of a wave.

    T, K, S, C below are targets, kinds of convolution, sources and channels; B, H, W batch, height and width.

    Args:
        wave: Weights and statistics.
        states: What enters the operations, ``(B, C, H, W)`` each.
    """

    def __init__(self, wave: "Wave", states: Sequence[Tensor]) -> None:
        self.wave = wave
        self.part: Part
        self.batch, _, self.height, self.width = states[0].shape
        self.height_out = -(-self.height // wave.stride)
        self.width_out = -(-self.width // wave.stride)

    def mix(self, weights: Tensor, scores: Scores | None) -> Tensor:
        """See ``Wave.forward``."""
        self.prepare()
        parts = self.wave.parts(self.targets_at_once())
        totals = []
        for part, factors in zip(parts, weights.split([part.targets for part in parts]), strict=True):
            self.part = part
            if self.wave.kinds:
                self.inputs = self.convolve()
            totals.append(self._mix_plain(factors) if scores is None else self._mix_scored(factors, scores))
        return totals[0] if len(totals) == 1 else torch.cat(totals, dim=1)

    def _mix_plain(self, weights: Tensor) -> Tensor:
        wave = self.wave
        columns = weights.index_select(2, wave.order)
        kinds, total = len(wave.kinds), None
        if kinds:
            weight, bias = self._last(columns[:, :, :kinds].transpose(1, 2).reshape(-1))
            total = self.project(weight, bias.sum((1, 2)), None)
        if wave.reduces:
            weight, bias = self._reduction(columns[:, :, -1].reshape(-1))
            total = self.project_halves(weight, bias.sum(1), None, total)
        if wave.pools or wave.identity:
            free = columns[:, :, kinds : kinds + len(wave.pools) + wave.identity].transpose(1, 2)
            total = self.add_free(free.flatten(1), None, total)
        return self.finish(total)

    def _mix_scored(self, weights: Tensor, scores: Scores) -> Tensor:
        """With factors that differ from sample to sample."""
        wave = self.wave
        kinds, free, total = len(wave.kinds), len(wave.pools) + wave.identity, None
        means = []
        if kinds:
            weight, bias = self._last(None)
            means.append(torch.einsum("tksoc,tkscb->btsko", weight, self.pooled_inputs()) + bias.transpose(1, 2))
        if free:
            pooled = self.pooled_free().permute(3, 1, 0, 2)  # (B, S, free, C)
            means.append(pooled.unsqueeze(1).expand(-1, self.part.targets, -1, -1, -1))
        if wave.reduces:
            reduce, reduce_bias = self._reduction(None)
            means.append((torch.einsum("tsoc,scb->btso", reduce, self.pooled_halves()) + reduce_bias).unsqueeze(3))
        factors = self._factors(weights, means, scores)  # (B, T, S, columns)
        if kinds:
            share = factors[..., :kinds].transpose(2, 3)
            total = self.project(weight, torch.einsum("btks,tkso->bto", share, bias), share)
        if wave.reduces:
            share = factors[..., -1]
            total = self.project_halves(reduce, torch.einsum("bts,tso->bto", share, reduce_bias), share, total)
        if free:
            share = factors[..., kinds : kinds + free].transpose(2, 3)
            total = self.add_free(None, share.flatten(2), total)
        return self.finish(total)

    def _factors(self, weights: Tensor, means: list[Tensor], scores: Scores) -> Tensor:
        wave = self.wave
        shape = (self.batch, self.part.targets * wave.sources, -1, wave.channels)
        pooled = weights.new_zeros(self.batch, shape[1], weights.shape[2], wave.channels)
        if means:
            filled = torch.cat(means, dim=3).reshape(shape)
            pooled = pooled.to(filled.dtype).index_copy(2, wave.order, filled)
        factors = weights.flatten(0, 1) * scores(pooled).exp()
        sums = factors.sum(2, keepdim=True)
        # an edge that is switched off has the sum zero and stays off
        sums = torch.where(sums == 0, torch.ones_like(sums), sums)
        factors = factors * (weights.flatten(0, 1).sum(1, keepdim=True) / sums)
        return factors.index_select(2, wave.order).unflatten(1, (self.part.targets, wave.sources))

    def _last(self, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """The last pointwise maps with batch norm and factors: ``(T, K, S, out, C)`` and ``(T, K, S, out)``."""
        return self._fold("2", self.part.weights["pointwise_2"], self.measure, scale)

    def _reduction(self, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._fold("reduce", self.wave.reduction(self.part), self.measure_halves, scale)

    def _fold(
        self, name: str, pointwise: Tensor, measure: Callable[[], Moments], scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        measured = measure() if self.wave.training else None
        weight, bias = fold(pointwise.flatten(0, -3), measured, self.wave.statistics(name, self.part), scale)
        return weight.view(pointwise.shape), bias.view(pointwise.shape[:-1])

    def _normalise(self, x: Tensor) -> Tensor:
        """Batch norm of pooled values, channels second."""
        mean, variance = self.wave.statistics("pool")
        return F.batch_norm(
            x, mean.flatten(), variance.flatten(), training=self.wave.training, momentum=MOMENTUM, eps=EPS
        )

    @abstractmethod
    def prepare(self) -> None:
        """Compute what the last pointwise maps read, and what has no weights."""

    @abstractmethod
    def targets_at_once(self) -> int:
        """Nodes whose sums are computed together."""

    @abstractmethod
    def convolve(self) -> Any:
        """What the last pointwise maps read."""

    @abstractmethod
    def measure(self) -> Moments:
        """Moments of what the last pointwise maps read, groups in the order (T, K, S)."""

    @abstractmethod
    def measure_halves(self) -> Moments:
        """Moments of what the strided skip reads, groups in the order (T, S)."""

    @abstractmethod
    def pooled_inputs(self) -> Tensor:
        """Means over pixels of what the last pointwise maps read: ``(T, K, S, C, B)``."""

    @abstractmethod
    def pooled_halves(self) -> Tensor:
        """Means over pixels of what the strided skip reads: ``(S, 2 * C, B)``."""

    @abstractmethod
    def pooled_free(self) -> Tensor:
        """Means over pixels of the operations without weights: ``(operations, S, C, B)``."""

    @abstractmethod
    def project(self, weight: Tensor, bias: Tensor, factors: Tensor | None) -> Tensor:
        """Sum over kinds and sources.

        Args:
            weight: ``(T, K, S, out, C)``.
            bias: ``(T, out)``, or ``(B, T, out)`` with factors.
            factors: ``(B, T, K, S)``.
        """

    @abstractmethod
    def project_halves(self, weight: Tensor, bias: Tensor, factors: Tensor | None, total: Tensor | None) -> Tensor:
        """Add the strided skip: weight ``(T, S, out, 2 * C)``, bias as in ``project``, factors ``(B, T, S)``."""

    @abstractmethod
    def add_free(self, weights: Tensor | None, factors: Tensor | None, total: Tensor | None) -> Tensor:
        """Add the operations without weights: factors ``(T, operations * S)``, or ``(B, T, operations * S)``."""

    @abstractmethod
    def finish(self, total: Tensor | None) -> Tensor:
        """The sums as ``(B, T * C, H, W)``; None (no operation but ``none``) is zero."""


class Dense(Path):
    """Small images: everything is a batched product of matrices over ``(channels, pixels * batch)``."""

    def __init__(self, wave: "Wave", states: Sequence[Tensor]) -> None:
        super().__init__(wave, states)
        pixels = [s.permute(1, 2, 3, 0).reshape(wave.channels, -1, self.batch) for s in states]
        # (S, C, H * W, B)
        self.x = pixels[0].unsqueeze(0).contiguous() if len(pixels) == 1 else torch.stack(pixels)
        self.columns = self.height_out * self.width_out * self.batch

    def prepare(self) -> None:
        """See ``Path``."""
        wave = self.wave
        relu = self.x.relu() if wave.kinds or wave.reduces else self.x
        self.relu = relu
        if wave.reduces:
            self.halves = self._halves(relu)
        self.free = self._free()

    def targets_at_once(self) -> int:
        """See ``Path``."""
        return self.wave.targets

    def _matrices(self, weight: Tensor, kinds: int, stride: int, dim: int) -> Tensor:
        """The matrices of the first kinds of convolution, ``(..., pixels out * pixels in)``, stacked in ``dim``."""
        chosen = self.wave.kinds[:kinds]
        size = (self.height, self.width) if stride == 2 else (self.height_out, self.width_out)
        parts = weight.split([k.taps for k in chosen], dim=-1)
        bases = [
            convolution_basis(k.kernel, stride, k.dilation, *size, weight.dtype, weight.device) for k in chosen
        ]
        return torch.stack([part @ basis for part, basis in zip(parts, bases, strict=True)], dim=dim)

    def convolve(self) -> Tensor:
        """What the last pointwise maps read, ``(T, K, S, C, N)``."""
        wave = self.wave
        t, k, s, c = self.part.targets, len(wave.kinds), wave.sources, wave.channels
        pixels, pixels_in = self.height_out * self.width_out, self.height * self.width
        first = self._matrices(self.part.weights["depthwise_1"].permute(1, 2, 0, 3).reshape(s * c, t, -1), k, wave.stride, 2)
        # all targets and kinds of one channel of a state in one matrix product
        d = torch.bmm(first.view(s * c, t * k * pixels, pixels_in), self.relu.view(s * c, pixels_in, self.batch))
        d = d.view(s, c, t, k, self.columns).permute(2, 3, 0, 1, 4)
        n = wave.separable
        if not n:
            return d.contiguous()
        inner = d[:, :n].reshape(t * n * s, c, self.columns)
        measured = (*moments(inner, None), self.columns) if wave.training else None
        weight, bias = fold(self.part.weights["pointwise_1"].flatten(0, 2), measured, wave.statistics("1", self.part), None)
        y = torch.baddbmm(bias.unsqueeze(2), weight, inner).relu_()
        second = self._matrices(self.part.weights["depthwise_2"].reshape(t, s * c, -1), n, 1, 1)
        y = torch.bmm(second.view(-1, pixels, pixels), y.view(-1, pixels, self.batch))
        y = y.view(t, n, s, c, self.columns)
        return y if n == k else torch.cat([y, d[:, n:].to(y.dtype)], dim=1)

    def _free(self) -> Tensor | None:
        """Pools and identity, ``(operations, S, C, N)``."""
        wave = self.wave
        flat = self.x.flatten(0, 1)
        parts = []
        for name in wave.pools:
            if name.startswith("avg"):
                matrix = average_matrix(wave.stride, self.height, self.width, flat.dtype, flat.device)
                parts.append(torch.matmul(matrix, flat))
            else:
                # (channels, pixels, batch) in memory is a channels_last image whose channels are the samples
                images = flat.view(-1, self.height, self.width, self.batch).permute(0, 3, 1, 2)
                parts.append(F.max_pool2d(images, 3, wave.stride, 1).permute(0, 2, 3, 1).flatten(1, 2))
        shape = (-1, wave.sources, wave.channels, self.columns)
        free = []
        if parts:
            free.append(self._normalise(torch.cat(parts).view(1, -1, self.columns)).view(shape))
        if wave.identity:
            free.append(self.x.view(shape))
        return torch.cat(free) if len(free) > 1 else free[0] if free else None

    def _halves(self, relu: Tensor) -> Tensor:
        """Every second pixel, and those shifted by one, as channels: ``(S, 2 * C, N)``."""
        images = relu.unflatten(2, (self.height, self.width))
        # an odd side has one pixel too few after the shift
        shifted = F.pad(images, (0, 0, 0, self.width % 2, 0, self.height % 2))[:, :, 1::2, 1::2]
        return torch.cat([images[:, :, ::2, ::2], shifted], dim=1).flatten(2)

    def measure(self) -> Moments:
        """See ``Path``."""
        return *moments(self.inputs.flatten(0, 2), None), self.columns

    def measure_halves(self) -> Moments:
        """See ``Path``."""
        mean, covariance = moments(self.halves, None)
        return mean.repeat(self.part.targets, 1), covariance.repeat(self.part.targets, 1, 1), self.columns

    def _pool(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.batch)).mean(-2)

    def pooled_inputs(self) -> Tensor:
        """See ``Path``."""
        return self._pool(self.inputs)

    def pooled_halves(self) -> Tensor:
        """See ``Path``."""
        return self._pool(self.halves)

    def pooled_free(self) -> Tensor:
        """See ``Path``."""
        assert self.free is not None
        return self._pool(self.free)

    def _scaled(self, x: Tensor, factors: Tensor) -> Tensor:
        """Multiply ``(..., C, N)`` by factors ``(B, ...)``."""
        factors = factors.movedim(0, -1).unsqueeze(-2).unsqueeze(-2)
        return (x.unflatten(-1, (-1, self.batch)) * factors).flatten(-2)

    def _bias(self, bias: Tensor) -> Tensor:
        """``(T, out)`` or ``(B, T, out)`` as something to add to ``(T, out, N)``."""
        if bias.dim() == 2:
            return bias.unsqueeze(2)
        return bias.permute(1, 2, 0).repeat(1, 1, self.columns // self.batch)

    def project(self, weight: Tensor, bias: Tensor, factors: Tensor | None) -> Tensor:
        """See ``Path``."""
        x = self.inputs if factors is None else self._scaled(self.inputs, factors)
        weight = weight.permute(0, 3, 1, 2, 4).flatten(2)  # (T, out, K * S * C)
        return torch.baddbmm(self._bias(bias), weight, x.flatten(1, 3))

    def project_halves(self, weight: Tensor, bias: Tensor, factors: Tensor | None, total: Tensor | None) -> Tensor:
        """See ``Path``."""
        targets, channels = self.part.targets, self.wave.channels
        weight = weight.transpose(1, 2).flatten(2)  # (T, out, S * 2 * C)
        if factors is None:
            y = (weight.flatten(0, 1) @ self.halves.flatten(0, 1)).view(targets, channels, -1) + self._bias(bias)
        else:
            y = torch.baddbmm(self._bias(bias), weight, self._scaled(self.halves, factors).flatten(1, 2))
        return y if total is None else total + y

    def add_free(self, weights: Tensor | None, factors: Tensor | None, total: Tensor | None) -> Tensor:
        """See ``Path``."""
        assert self.free is not None
        shape = (self.part.targets, self.wave.channels, self.columns)
        planes = self.free.flatten(0, 1).flatten(1)
        if factors is not None:
            samples = self.free.flatten(0, 1).unflatten(-1, (-1, self.batch))
            y = torch.einsum("btk,kcpb->tcpb", factors, samples).reshape(shape)
        else:
            assert weights is not None
            y = (weights @ planes).view(shape)
        return y if total is None else total + y

    def finish(self, total: Tensor | None) -> Tensor:
        """See ``Path``."""
        if total is None:
            total = self.x.new_zeros(self.part.targets, self.wave.channels, self.columns)
        images = total.reshape(-1, self.height_out, self.width_out, self.batch)
        return images.permute(3, 0, 1, 2)


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
                [x.unflatten(1, (wave.sources, wave.channels)) for x in (relu[:, :, ::2, ::2], shifted)], dim=2
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
        weight, bias = fold(self.part.weights["pointwise_1"].flatten(0, 2), measured, wave.statistics("1", self.part), None)
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
        return self.halves.mean((2, 3)).unflatten(1, (self.wave.sources, -1)).permute(1, 2, 0)

    def pooled_free(self) -> Tensor:
        """See ``Path``."""
        assert self.free is not None
        return self.free.mean((2, 3)).unflatten(0, (-1, self.wave.sources)).transpose(2, 3)

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
        pixels = total.permute(0, 2, 3, 1).unflatten(3, (self.part.targets, -1))
        return (pixels + y).flatten(3).permute(0, 3, 1, 2)

    def finish(self, total: Tensor | None) -> Tensor:
        """See ``Path``."""
        if total is not None:
            return total
        return self.x.new_zeros(
            self.batch, self.part.targets * self.wave.channels, self.height_out, self.width_out
        )
