"""What both kernels of ``FusedEdges`` share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.spaces.darts.edge_weights import EdgeSlice, EdgeWeights
from lightning_nas.spaces.darts.rectangles import take
from lightning_nas.spaces.kernels import EPS, MOMENTUM, Moments, fold


class EdgeKernel(ABC):
    """One evaluation of fused edges.

    In the shapes below, T, K, S and C are the numbers of targets, kinds of convolution, sources and channels of a
    slice; B, H and W are batch, height and width.

    Args:
        weights: Weights and statistics of the edges.
        states: The channels that enter the operations, ``(B, C, H, W)`` each.
        skip_dropout: See ``FusedEdges``.
    """

    x: Tensor

    def __init__(self, weights: EdgeWeights, states: Sequence[Tensor], skip_dropout: float = 0.0) -> None:
        self.weights = weights
        self.training = weights.training
        self.skip_dropout = skip_dropout
        self.batch, _, self.height, self.width = states[0].shape
        self.height_out = -(-self.height // weights.stride)
        self.width_out = -(-self.width // weights.stride)

    def mix(self, factors: Tensor, active: Tensor | None) -> Tensor:
        """Compute the weighted sum at every node; see ``FusedEdges.forward``."""
        chunks = self.weights.chunks(self.one_by_one, active)
        slices = [part for _, _, of_chunk in chunks for part in of_chunk]
        self.prepare(any(part.kinds or part.reduces for part in slices))
        free = self.weights.active_free(active)
        self.free = self.compute_free(free)
        split = factors.split(1) if self.one_by_one else [factors]
        totals = [self._mix_chunk(*chunk, of_chunk, free) for chunk, of_chunk in zip(chunks, split, strict=True)]
        return totals[0] if len(totals) == 1 else torch.cat(totals, dim=1)

    def _mix_chunk(
        self, first: int, count: int, slices: list[EdgeSlice], factors: Tensor, free: Sequence[int]
    ) -> Tensor:
        """Sum of one chunk."""
        weights = self.weights
        # one split costs less than separate slices: its gradient is a single concatenation
        ordered = factors.index_select(2, weights.order).transpose(1, 2)
        sizes = [len(weights.convolutions), len(weights.free), int(weights.reduces)]
        of_kinds, of_free, of_reduction = ordered.split(sizes, dim=1)
        results = []
        for part in slices:
            rows = [t - first for t in part.targets]
            total = None
            if part.kinds:
                inputs = self.convolve(part)
                scale = take(take(of_kinds, 0, rows), 1, [kind.position for kind in part.kinds])
                weight, bias = self._last(part, inputs, take(scale, 2, part.sources).reshape(-1))
                total = self.project(part, inputs, weight, bias.sum((1, 2)))
            if part.reduces:
                scale = take(take(of_reduction, 0, rows), 2, part.sources)
                weight, bias = self._reduction(part, scale.reshape(-1))
                total = self.project_halves(part, weight, bias.sum(1), total)
            results.append((rows, total))
        total = self._assembled(count, results)
        if self.free is not None:
            chosen = [weights.free.index(column) for column in free]
            total = self.add_free(take(of_free, 1, chosen).flatten(1), total)
        return self.finish(total, count)

    def passed_by_skips(self) -> Tensor:
        """Return the states as skip connections pass them, with dropout in training."""
        return F.dropout(self.x, self.skip_dropout) if self.skip_dropout and self.training else self.x

    def _assembled(self, count: int, results: list[tuple[list[int], Tensor | None]]) -> Tensor | None:
        """Add the sums of slices, each of which serves some of the targets."""
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

    def _last(self, part: EdgeSlice, inputs: Any, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Last pointwise maps with batch norm and factors: ``(T, K, S, out, C)`` and ``(T, K, S, out)``."""
        measured = self.measure(part, inputs) if self.training else None
        return self.fold(part, "2", part.weights["pointwise_2"], measured, scale)

    def _reduction(self, part: EdgeSlice, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Both convolutions of the strided skip as one map: ``(T, S, out, 2 * C)`` and ``(T, S, out)``."""
        first, second = part.weights["reduce_1"], part.weights["reduce_2"]
        channels = self.weights.channels
        pointwise = torch.cat([F.pad(first, (0, channels)), F.pad(second, (channels, 0))], dim=2)
        measured = self.measure_halves(part) if self.training else None
        return self.fold(part, "reduce", pointwise, measured, scale)

    def fold(
        self, part: EdgeSlice, name: str, pointwise: Tensor, measured: Moments | None, scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Fold batch norms and factors into pointwise maps; see ``kernels.fold``.

        Args:
            part: The slice that the maps belong to.
            name: Key of the batch norms in ``EdgeSlice.running``.
            pointwise: Maps ``(..., out, in)``.
            measured: Moments of the inputs of the maps in training, otherwise None.
            scale: Factors of the outputs, ``(groups,)``, or None.

        Returns:
            Weights of the shape of ``pointwise``, and biases ``(..., out)``.
        """
        running = part.running[name].read()
        weight, bias = fold(pointwise.flatten(0, -3), measured, running, scale)
        if measured is not None:
            part.running[name].write(running)
        return weight.view(pointwise.shape), bias.view(pointwise.shape[:-1])

    def normalize_pools(self, x: Tensor, pools: Sequence[int]) -> Tensor:
        """Apply the batch norms of pooling operations.

        Args:
            x: Pooled values with the channels of all pools and sources as second dimension.
            pools: Columns of the pooling operations.
        """
        mean, variance = self.weights.pool_statistics(pools)
        return F.batch_norm(x, mean.flatten(), variance.flatten(), training=self.training, momentum=MOMENTUM, eps=EPS)

    @property
    @abstractmethod
    def one_by_one(self) -> bool:
        """Whether targets are computed one by one, instead of all together."""

    @abstractmethod
    def prepare(self, weighted: bool) -> None:
        """Compute what all slices read.

        Args:
            weighted: Whether there are any slices with weights.
        """

    @abstractmethod
    def convolve(self, part: EdgeSlice) -> Any:
        """Compute the inputs of the last pointwise maps, in the layout of the kernel."""

    @abstractmethod
    def measure(self, part: EdgeSlice, inputs: Any) -> Moments:
        """Measure the moments of the inputs of the last pointwise maps, with groups in the order (T, K, S)."""

    @abstractmethod
    def measure_halves(self, part: EdgeSlice) -> Moments:
        """Measure the moments of the inputs of the strided skip, with groups in the order (T, S)."""

    @abstractmethod
    def project(self, part: EdgeSlice, inputs: Any, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply the last pointwise maps and sum over kinds and sources.

        Args:
            part: The slice that was convolved.
            inputs: What ``convolve`` returned.
            weight: ``(T, K, S, out, C)``.
            bias: ``(T, out)``.
        """

    @abstractmethod
    def project_halves(self, part: EdgeSlice, weight: Tensor, bias: Tensor, total: Tensor | None) -> Tensor:
        """Apply the strided skip, sum over sources, and add the result to a total.

        Args:
            part: The slice.
            weight: ``(T, S, out, 2 * C)``.
            bias: ``(T, out)``.
            total: The total, or None for zero.
        """

    @abstractmethod
    def compute_free(self, columns: Sequence[int]) -> Tensor | None:
        """Compute the operations without weights of all sources; None if there are no such operations.

        Args:
            columns: Their columns: pooling, then noise, then the identity; see ``EdgeWeights.free``.
        """

    @abstractmethod
    def add_free(self, factors: Tensor, total: Tensor | None) -> Tensor:
        """Add the weighted operations without weights to a total.

        Args:
            factors: Factors ``(T, operations * S)``.
            total: The total, or None for zero.
        """

    @abstractmethod
    def unstack(self, y: Tensor, targets: int) -> Sequence[Tensor]:
        """Split sums into those of each target."""

    @abstractmethod
    def stack(self, pieces: list[Tensor]) -> Tensor:
        """Undo ``unstack``."""

    @abstractmethod
    def finish(self, total: Tensor | None, targets: int) -> Tensor:
        """Return the sums as ``(B, T * C, H, W)``; None, where no operation is computed, becomes zero."""
