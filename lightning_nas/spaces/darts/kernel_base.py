"""What the two ways of computing a wave share; see ``lightning_nas.spaces.darts.fused_edges.FusedEdges``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.spaces.darts.edge_weights import EdgeSlice, take
from lightning_nas.spaces.kernels import EPS, MOMENTUM, Moments, fold

if TYPE_CHECKING:
    from lightning_nas.spaces.darts.fused_edges import FusedEdges

Scores = Callable[[Tensor], Tensor]


class EdgeKernel(ABC):
    """One evaluation of a wave.

    T, K, S, C below are targets, kinds of convolution, sources and channels of a part; B, H, W batch, height and width.

    Args:
        wave: Weights and statistics.
        states: What enters the operations, ``(B, C, H, W)`` each.
    """

    x: Tensor

    def __init__(self, wave: "FusedEdges", states: Sequence[Tensor]) -> None:
        self.wave = wave
        self.batch, _, self.height, self.width = states[0].shape
        self.height_out = -(-self.height // wave.stride)
        self.width_out = -(-self.width // wave.stride)

    def mix(self, weights: Tensor, scores: Scores | None, active: Tensor | None) -> Tensor:
        """See ``FusedEdges.forward``."""
        chunks = self.wave.chunks(self.single, active)
        parts = [part for _, _, of_chunk in chunks for part in of_chunk]
        self.prepare(any(part.kinds or part.reduces for part in parts))
        self.free = self._free(self.wave.wanted_free(active))
        split = weights.split(1) if self.single else [weights]
        totals = [
            self._mix_plain(*chunk, factors, active)
            if scores is None
            else self._mix_scored(*chunk, factors, active, scores)
            for chunk, factors in zip(chunks, split, strict=True)
        ]
        return totals[0] if len(totals) == 1 else torch.cat(totals, dim=1)

    def _mix_plain(
        self, first: int, count: int, parts: list[EdgeSlice], weights: Tensor, active: Tensor | None
    ) -> Tensor:
        wave = self.wave
        # one split costs less than slices: its gradient is one concatenation
        ordered = weights.index_select(2, wave.order).transpose(1, 2)
        sizes = [len(wave.convolutions), len(wave.free), int(wave.reduces)]
        of_kinds, of_free, of_reduction = ordered.split(sizes, dim=1)
        results = []
        for part in parts:
            rows = [t - first for t in part.targets]
            total = None
            if part.kinds:
                inputs = self.convolve(part)
                scale = take(take(of_kinds, 0, rows), 1, [kind.position for kind in part.kinds])
                weight, bias = self._last(part, inputs, take(scale, 2, part.sources).reshape(-1))
                total = self.project(part, inputs, weight, bias.sum((1, 2)), None)
            if part.reduces:
                scale = take(take(of_reduction, 0, rows), 2, part.sources)
                weight, bias = self._reduction(part, scale.reshape(-1))
                total = self.project_halves(part, weight, bias.sum(1), None, total)
            results.append((rows, total))
        total = self._assembled(count, results)
        if self.free is not None:
            chosen = [wave.free.index(name) for name in wave.wanted_free(active)]
            total = self.add_free(take(of_free, 1, chosen).flatten(1), None, total)
        return self.finish(total, count)

    def _mix_scored(
        self, first: int, count: int, parts: list[EdgeSlice], weights: Tensor, active: Tensor | None, scores: Scores
    ) -> Tensor:
        """With factors that differ from sample to sample."""
        wave, width = self.wave, weights.shape[2]
        pooled = weights.new_zeros(self.batch, count, wave.sources, width, wave.channels)
        made = []
        for part in parts:
            rows = [t - first for t in part.targets]
            inputs, last, reduction = None, None, None
            if part.kinds:
                inputs = self.convolve(part)
                last = self._last(part, inputs, None)
                mean = torch.einsum("tksoc,tkscb->btsko", last[0], self.pooled_inputs(part, inputs))
                pooled = self._filled(pooled, rows, part.sources, self._columns(part), mean + last[1].transpose(1, 2))
            if part.reduces:
                reduction = self._reduction(part, None)
                mean = torch.einsum("tsoc,scb->btso", reduction[0], self.pooled_halves(part)) + reduction[1]
                pooled = self._filled(pooled, rows, part.sources, [wave.columns[-1]], mean.unsqueeze(3))
            made.append((part, rows, inputs, last, reduction))
        free_columns = self._free_columns(active)
        if free_columns:
            mean = self.pooled_free().permute(3, 1, 0, 2).unsqueeze(1).expand(-1, count, -1, -1, -1)
            pooled = self._filled(pooled, range(count), range(wave.sources), free_columns, mean)
        factors = self._factors(weights, pooled, scores)  # (B, T, S, operations)
        results = []
        for part, rows, inputs, last, reduction in made:
            share = take(take(factors, 1, rows), 2, part.sources)
            total = None
            if last is not None:
                of_kinds = share[..., self._columns(part)].transpose(2, 3)
                bias = torch.einsum("btks,tkso->bto", of_kinds, last[1])
                total = self.project(part, inputs, last[0], bias, of_kinds)
            if reduction is not None:
                of_skip = share[..., wave.columns[-1]]
                bias = torch.einsum("bts,tso->bto", of_skip, reduction[1])
                total = self.project_halves(part, reduction[0], bias, of_skip, total)
            results.append((rows, total))
        total = self._assembled(count, results)
        if free_columns:
            total = self.add_free(None, factors[..., free_columns].transpose(2, 3).flatten(2), total)
        return self.finish(total, count)

    def skipped(self) -> Tensor:
        """The states as skips pass them."""
        rate = self.wave.skip_dropout
        return F.dropout(self.x, rate) if rate and self.wave.training else self.x

    def _columns(self, part: EdgeSlice) -> list[int]:
        """Columns of a part's convolutions in the mixture."""
        return [self.wave.columns[kind.position] for kind in part.kinds]

    def _free_columns(self, active: Tensor | None) -> list[int]:
        return [self.wave.operations.index(name) for name in self.wave.wanted_free(active)]

    def _filled(
        self, x: Tensor, targets: Sequence[int], sources: Sequence[int], columns: Sequence[int], values: Tensor
    ) -> Tensor:
        """Put values ``(B, targets, sources, columns, C)`` into their places."""
        t, s, o = (torch.tensor(list(indices), device=x.device) for indices in (targets, sources, columns))
        b = torch.arange(self.batch, device=x.device)
        return x.to(values.dtype).index_put((b[:, None, None, None], t[:, None, None], s[:, None], o), values)

    def _factors(self, weights: Tensor, pooled: Tensor, scores: Scores) -> Tensor:
        """The mixture's factors times the exponentials of scores, with the sum of every edge kept."""
        flat = weights.flatten(0, 1)
        factors = flat * scores(pooled.flatten(1, 2)).exp()
        sums = factors.sum(2, keepdim=True)
        # an edge that is switched off has the sum zero and stays off
        sums = torch.where(sums == 0, torch.ones_like(sums), sums)
        scaled: Tensor = (factors * (flat.sum(1, keepdim=True) / sums)).unflatten(1, weights.shape[:2])
        return scaled

    def _assembled(self, count: int, results: list[tuple[list[int], Tensor | None]]) -> Tensor | None:
        """The sums of parts that serve some of the targets each."""
        found = [(rows, y) for rows, y in results if y is not None]
        if not found:
            return None
        total = None
        if all(len(rows) == count for rows, _ in found):
            for _, y in found:
                total = y if total is None else total + y
            return total
        pieces: list[Tensor | None] = [None] * count
        for rows, y in found:
            for row, piece in zip(rows, self.unstack(y, len(rows)), strict=True):
                before = pieces[row]
                pieces[row] = piece if before is None else before + piece
        zeros = next(torch.zeros_like(piece) for piece in pieces if piece is not None)
        return self.stack([zeros if piece is None else piece for piece in pieces])

    def _last(self, part: EdgeSlice, inputs: Any, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """The last pointwise maps with batch norm and factors: ``(T, K, S, out, C)`` and ``(T, K, S, out)``."""
        measured = self.measure(part, inputs) if self.wave.training else None
        return self.fold(part, "2", part.weights["pointwise_2"], measured, scale)

    def _reduction(self, part: EdgeSlice, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """The two convolutions of the strided skip as one map of both: ``(T, S, out, 2 * in)`` and ``(T, S, out)``."""
        first, second = part.weights["reduce_1"], part.weights["reduce_2"]
        channels = self.wave.channels
        pointwise = torch.cat([F.pad(first, (0, channels)), F.pad(second, (channels, 0))], dim=2)
        measured = self.measure_halves(part) if self.wave.training else None
        return self.fold(part, "reduce", pointwise, measured, scale)

    def fold(
        self, part: EdgeSlice, name: str, pointwise: Tensor, measured: Moments | None, scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Pointwise maps ``(..., out, in)`` with their batch norm; see ``grouped.fold``."""
        running = part.running[name].read()
        weight, bias = fold(pointwise.flatten(0, -3), measured, running, scale)
        if measured is not None:
            part.running[name].write(running)
        return weight.view(pointwise.shape), bias.view(pointwise.shape[:-1])

    def _normalise(self, x: Tensor, pools: Sequence[str]) -> Tensor:
        """Batch norm of pooled values, channels second."""
        mean, variance = self.wave.pool_statistics(pools)
        return F.batch_norm(
            x, mean.flatten(), variance.flatten(), training=self.wave.training, momentum=MOMENTUM, eps=EPS
        )

    @property
    @abstractmethod
    def single(self) -> bool:
        """Whether targets are computed one by one."""

    @abstractmethod
    def prepare(self, weighted: bool) -> None:
        """Compute what all parts read, if there are any."""

    @abstractmethod
    def convolve(self, part: EdgeSlice) -> Any:
        """What the last pointwise maps read."""

    @abstractmethod
    def measure(self, part: EdgeSlice, inputs: Any) -> Moments:
        """Moments of what the last pointwise maps read, groups in the order (T, K, S)."""

    @abstractmethod
    def measure_halves(self, part: EdgeSlice) -> Moments:
        """Moments of what the strided skip reads, groups in the order (T, S)."""

    @abstractmethod
    def pooled_inputs(self, part: EdgeSlice, inputs: Any) -> Tensor:
        """Means over pixels of what the last pointwise maps read: ``(T, K, S, C, B)``."""

    @abstractmethod
    def pooled_halves(self, part: EdgeSlice) -> Tensor:
        """Means over pixels of what the strided skip reads: ``(S, 2 * C, B)``."""

    @abstractmethod
    def pooled_free(self) -> Tensor:
        """Means over pixels of the operations without weights: ``(operations, S, C, B)``."""

    @abstractmethod
    def project(self, part: EdgeSlice, inputs: Any, weight: Tensor, bias: Tensor, factors: Tensor | None) -> Tensor:
        """Sum over kinds and sources.

        Args:
            part: What was convolved.
            inputs: See ``convolve``.
            weight: ``(T, K, S, out, C)``.
            bias: ``(T, out)``, or ``(B, T, out)`` with factors.
            factors: ``(B, T, K, S)``.
        """

    @abstractmethod
    def project_halves(
        self, part: EdgeSlice, weight: Tensor, bias: Tensor, factors: Tensor | None, total: Tensor | None
    ) -> Tensor:
        """Add the strided skip: weight ``(T, S, out, 2 * C)``, bias as in ``project``, factors ``(B, T, S)``."""

    @abstractmethod
    def _free(self, names: Sequence[str]) -> Tensor | None:
        """Operations without weights of all sources: pools, then noise, then the identity; see ``FusedEdges.free``."""

    @abstractmethod
    def add_free(self, weights: Tensor | None, factors: Tensor | None, total: Tensor | None) -> Tensor:
        """Add the operations without weights: factors ``(T, operations * S)``, or ``(B, T, operations * S)``."""

    @abstractmethod
    def unstack(self, y: Tensor, targets: int) -> Sequence[Tensor]:
        """The sums of each target."""

    @abstractmethod
    def stack(self, pieces: list[Tensor]) -> Tensor:
        """Undo ``unstack``."""

    @abstractmethod
    def finish(self, total: Tensor | None, targets: int) -> Tensor:
        """The sums as ``(B, T * C, H, W)``; None (no operation but ``none``) is zero."""
