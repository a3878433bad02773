"""What the two ways of computing a wave share; see ``lightning_nas.spaces.wave.Wave``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.spaces.grouped import EPS, MOMENTUM, Moments, fold

if TYPE_CHECKING:
    from lightning_nas.spaces.wave import Wave

Scores = Callable[[Tensor], Tensor]


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
        kinds, free, total = len(wave.kinds), len(wave.pools) + wave.identity, None
        # one split costs less than slices: its gradient is one concatenation
        columns = weights.index_select(2, wave.order).transpose(1, 2).split([kinds, free, int(wave.reduces)], dim=1)
        if kinds:
            weight, bias = self._last(columns[0].reshape(-1))
            total = self.project(weight, bias.sum((1, 2)), None)
        if wave.reduces:
            weight, bias = self._reduction(columns[2].reshape(-1))
            total = self.project_halves(weight, bias.sum(1), None, total)
        if free:
            total = self.add_free(columns[1].flatten(1), None, total)
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
        return factors.index_select(2, wave.order).view(self.batch, self.part.targets, wave.sources, -1)

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
