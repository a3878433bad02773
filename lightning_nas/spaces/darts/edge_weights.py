"""Weights and batch-norm statistics of the operations on the edges of a DARTS cell, stacked over the edges."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_nas.spaces.darts.rectangles import Rectangle, rectangles, take
from lightning_nas.spaces.operations import (
    AveragePooling,
    DilatedConvolution,
    MaxPooling,
    Operation,
    SeparableConvolution,
)


class ConvolutionKind(NamedTuple):
    """A convolutional operation: a depthwise and a pointwise convolution, once or (separable) twice.

    Attributes:
        position: Index among the convolutions of ``EdgeWeights``.
        kernel: Side of the depthwise kernel.
        dilation: 1 if separable, 2 if dilated.
    """

    position: int
    kernel: int
    dilation: int

    @property
    def taps(self) -> int:
        """Number of weights per channel of the depthwise kernel."""
        return self.kernel**2


class RunningStats(NamedTuple):
    """Selected rows of running means and variances.

    Attributes:
        mean: All running means, ``(groups, channels)``.
        variance: All running variances, ``(groups, channels)``.
        rows: The selected groups.
    """

    mean: Tensor
    variance: Tensor
    rows: slice | Tensor

    def read(self) -> tuple[Tensor, Tensor]:
        """Return the selected rows of means and variances: views if ``rows`` is a slice, otherwise copies."""
        return self.mean[self.rows], self.variance[self.rows]

    def write(self, changed: tuple[Tensor, Tensor]) -> None:
        """Store rows from ``read`` that were changed in place.

        Args:
            changed: What ``read`` returned.
        """
        if not isinstance(self.rows, slice):
            self.mean[self.rows], self.variance[self.rows] = changed


class EdgeSlice(NamedTuple):
    """Weights of what one call of a kernel computes: convolutions on all edges from some sources to some targets.

    In the shapes below, T, K, S and C are the numbers of targets, kinds of convolution, sources and channels.

    Attributes:
        targets: Indices of the targets.
        sources: Indices of the sources.
        kinds: The kinds of convolution, separable before dilated.
        reduces: Whether there is a strided skip connection on the edges.
        weights: ``depthwise_1`` ``(T, S, C, taps of all kinds)`` and ``pointwise_2`` ``(T, K, S, C, C)``; for the
            separable kinds also ``depthwise_2`` and ``pointwise_1`` of the same layouts; for the strided skip
            ``reduce_1`` ``(T, S, C / 2, C)`` and ``reduce_2`` ``(T, S, C - C / 2, C)``.
        running: Batch-norm statistics after ``pointwise_1`` (key ``1``), after ``pointwise_2`` (key ``2``) and after
            the strided skip (key ``reduce``).
    """

    targets: tuple[int, ...]
    sources: tuple[int, ...]
    kinds: tuple[ConvolutionKind, ...]
    reduces: bool
    weights: dict[str, Tensor]
    running: dict[str, RunningStats]

    @property
    def separable(self) -> int:
        """Number of separable kinds."""
        return sum(kind.dilation == 1 for kind in self.kinds)


class RectangleWeights(nn.Module):
    """Weights and statistics of the same operations on all edges from some sources to some targets.

    Args:
        rectangle: Targets, sources, and operations as positions in ``columns``.
        columns: Columns of the mixture of all operations with weights: the convolutions, then the strided skip.
        kinds: The kinds of convolution, in the order of ``columns``.
        channels: Channels of the operations.
    """

    def __init__(
        self, rectangle: Rectangle, columns: Sequence[int], kinds: Sequence[ConvolutionKind], channels: int
    ) -> None:
        super().__init__()
        self.targets, self.sources = rectangle.targets, rectangle.sources
        self.channels = channels
        positions = sorted(rectangle.operations)
        self.columns = [columns[i] for i in positions]
        self.kinds = tuple(kinds[i] for i in positions if i < len(kinds))
        self.reduces = len(self.kinds) < len(positions)
        self.separable = sum(kind.dilation == 1 for kind in self.kinds)
        self.shapes: dict[str, tuple[int, ...]] = {}
        t, s, count = len(self.targets), len(self.sources), len(self.kinds)
        taps = [kind.taps for kind in self.kinds]
        if count:
            self._add_weights("depthwise_1", taps, t, s, channels)
            self._add_weights("pointwise_2", [channels], t, count, s, channels)
            self._add_statistics("2", t, count, s)
        if self.separable:
            self._add_weights("depthwise_2", taps[: self.separable], t, s, channels)
            self._add_weights("pointwise_1", [channels], t, self.separable, s, channels)
            self._add_statistics("1", t, self.separable, s)
        if self.reduces:
            self._add_weights("reduce_1", [channels], t, s, channels // 2)
            self._add_weights("reduce_2", [channels], t, s, channels - channels // 2)
            self._add_statistics("reduce", t, 1, s)

    def _add_weights(self, name: str, fans: Sequence[int], *shape: int) -> None:
        """Add weights drawn as ``nn.Conv2d`` draws them: uniformly within ``1 / sqrt(fan_in)``."""
        parts = [torch.empty(*shape, n).uniform_(-(n**-0.5), n**-0.5) for n in fans]
        # no more than three dimensions: a change of the memory format, which is meant for images, leaves those alone
        self.register_parameter(name, nn.Parameter(torch.cat(parts, dim=-1).flatten(1, -2)))
        self.shapes[name] = (*shape, sum(fans))

    def _add_statistics(self, name: str, *shape: int) -> None:
        groups = shape[0] * shape[1] * shape[2]
        self.register_buffer(f"mean_{name}", torch.zeros(groups, self.channels))
        self.register_buffer(f"var_{name}", torch.ones(groups, self.channels))
        self.shapes |= {f"mean_{name}": (*shape, self.channels), f"var_{name}": (*shape, self.channels)}

    def _views(self) -> dict[str, Tensor]:
        """All weights in their full shapes."""
        return {name: p.view(self.shapes[name]) for name, p in self.named_parameters()}

    def _running(self, rows: Mapping[str, slice | Tensor]) -> dict[str, RunningStats]:
        return {
            name: RunningStats(self.get_buffer(f"mean_{name}"), self.get_buffer(f"var_{name}"), of_name)
            for name, of_name in rows.items()
        }

    @property
    def _batch_norms(self) -> list[str]:
        return [name for name in ("2", "1", "reduce") if f"mean_{name}" in self.shapes]

    def whole(self) -> EdgeSlice:
        """Return everything as one slice."""
        running = self._running({name: slice(None) for name in self._batch_norms})
        return EdgeSlice(self.targets, self.sources, self.kinds, self.reduces, self._views(), running)

    def split(self) -> list[EdgeSlice]:
        """Return one slice per target."""
        # one split costs less than separate slices: its gradient is a single concatenation
        pieces = {name: p.split(1) for name, p in self._views().items()}
        slices = []
        for i, target in enumerate(self.targets):
            rows = {}
            for name in self._batch_norms:
                groups = self.shapes[f"mean_{name}"][1] * self.shapes[f"mean_{name}"][2]
                rows[name] = slice(i * groups, (i + 1) * groups)
            weights = {name: piece[i] for name, piece in pieces.items()}
            slices.append(EdgeSlice((target,), self.sources, self.kinds, self.reduces, weights, self._running(rows)))
        return slices

    def part(self, rectangle: Rectangle, first: int = 0) -> EdgeSlice:
        """Return a part as a slice.

        Args:
            rectangle: Positions in ``targets``, ``sources`` and ``columns``.
            first: Number to add to the positions of targets.
        """
        targets = tuple(first + t for t in rectangle.targets)
        chosen = [i for i in sorted(rectangle.operations) if i < len(self.kinds)]
        separable = [i for i in chosen if i < self.separable]
        views, weights = self._views(), {}
        rows: dict[str, slice | Tensor] = {}
        if chosen:
            weights["depthwise_1"] = self._depthwise(views["depthwise_1"], targets, rectangle.sources, chosen)
        if separable:
            weights["depthwise_2"] = self._depthwise(views["depthwise_2"], targets, rectangle.sources, separable)
            weights["pointwise_1"] = _pointwise(views["pointwise_1"], targets, rectangle.sources, separable)
        if chosen:
            weights["pointwise_2"] = _pointwise(views["pointwise_2"], targets, rectangle.sources, chosen)
            rows["2"] = self._rows("2", targets, chosen, rectangle.sources)
        if separable:
            rows["1"] = self._rows("1", targets, separable, rectangle.sources)
        reduces = len(chosen) < len(rectangle.operations)
        if reduces:
            names = ("reduce_1", "reduce_2")
            weights |= {n: take(take(views[n], 0, targets), 1, rectangle.sources) for n in names}
            rows["reduce"] = self._rows("reduce", targets, [0], rectangle.sources)
        return EdgeSlice(
            tuple(self.targets[t] for t in targets),
            tuple(self.sources[s] for s in rectangle.sources),
            tuple(self.kinds[i] for i in chosen),
            reduces,
            weights,
            self._running(rows),
        )

    def _depthwise(self, view: Tensor, targets: Sequence[int], sources: Sequence[int], kinds: Sequence[int]) -> Tensor:
        """Part of the depthwise weights; the taps of all kinds lie side by side in the last dimension."""
        taps = [kind.taps for kind in self.kinds]
        starts = [sum(taps[:i]) for i in range(len(taps))]
        columns = [c for i in kinds for c in range(starts[i], starts[i] + taps[i])]
        return take(take(take(view, 0, targets), 1, sources), 3, columns)

    def _rows(self, name: str, targets: Sequence[int], kinds: Sequence[int], sources: Sequence[int]) -> Tensor:
        _, k, s, _ = self.shapes[f"mean_{name}"]
        rows = [(t * k + i) * s + j for t in targets for i in kinds for j in sources]
        # without waiting for what a GPU computes
        return torch.tensor(rows).to(self.get_buffer(f"mean_{name}").device, non_blocking=True)


def _pointwise(view: Tensor, targets: Sequence[int], sources: Sequence[int], kinds: Sequence[int]) -> Tensor:
    return take(take(take(view, 0, targets), 1, kinds), 2, sources)


class EdgeWeights(nn.Module):
    """Everything that is stored for the operations on all edges from some states to some nodes.

    Args:
        operations: The operations, in the order of the mixture's columns; of those in ``operations.BUILT_IN``.
        allowed: Operations that weights are stored for, bool ``(targets, sources, operations)``.
        channels: Channels of the operations.
        stride: 2 halves height and width.

    Attributes:
        convolutions: Columns of the convolutions, separable before dilated.
        kinds: The convolutions, in this order.
        pools: Columns of the pooling operations.
        free: Columns of all operations without weights: pooling, then noise, then the skip of stride 1.
        reduces: Whether there is a strided skip, which has weights.
        columns: Columns of the convolutions, of ``free``, and of the strided skip, in this order.
        order: ``columns`` as a tensor.
    """

    order: Tensor

    def __init__(self, operations: Sequence[Operation], allowed: Tensor, channels: int, stride: int) -> None:
        super().__init__()
        self.operations = tuple(operations)
        self.targets, self.sources, _ = allowed.shape
        self.channels, self.stride, self.allowed = channels, stride, allowed
        used = allowed.flatten(0, 1).any(0).nonzero().flatten().tolist()
        separable = [c for c in used if isinstance(operations[c], SeparableConvolution)]
        dilated = [c for c in used if isinstance(operations[c], DilatedConvolution)]
        skip = [c for c in used if operations[c].is_skip]
        self.convolutions = separable + dilated
        self.pools = [c for c in used if isinstance(operations[c], (MaxPooling, AveragePooling))]
        self.free = self.pools + [c for c in used if operations[c].is_random] + skip * (stride == 1)
        self.reduces = bool(skip) and stride == 2
        self.columns = self.convolutions + self.free + skip * self.reduces
        self.register_buffer("order", torch.tensor(self.columns, dtype=torch.long), persistent=False)
        weighted = self.convolutions + skip * self.reduces
        self.kinds = [_kind(i, operations[c]) for i, c in enumerate(self.convolutions)]
        self.rectangles = nn.ModuleList(
            RectangleWeights(rectangle, weighted, self.kinds, channels)
            for rectangle in rectangles(allowed[:, :, weighted])
        )
        if self.pools:
            self.register_buffer("mean_pool", torch.zeros(len(self.pools) * self.sources, channels))
            self.register_buffer("var_pool", torch.ones(len(self.pools) * self.sources, channels))
        if self.pools or weighted:
            self.register_buffer("batches", torch.tensor(0, dtype=torch.long))

    def count_batch(self) -> None:
        """Count one more batch in the statistics, if there are any."""
        if "batches" in self._buffers:
            self.get_buffer("batches").add_(1)

    def chunks(self, one_by_one: bool, active: Tensor | None) -> list[tuple[int, int, list[EdgeSlice]]]:
        """Divide the operations with weights into what is computed together.

        Args:
            one_by_one: Whether targets are computed one by one, instead of all together.
            active: Operations to compute, see ``FusedEdges.forward``.

        Returns:
            For every chunk its first target, its number of targets, and its slices.
        """
        slices = [part for stored in self.rectangles for part in self._slices(stored, one_by_one, active)]
        if not one_by_one:
            return [(0, self.targets, slices)]
        return [(t, 1, [part for part in slices if part.targets == (t,)]) for t in range(self.targets)]

    def _slices(self, stored: nn.Module, one_by_one: bool, active: Tensor | None) -> list[EdgeSlice]:
        assert isinstance(stored, RectangleWeights)
        if active is None:
            return stored.split() if one_by_one else [stored.whole()]
        wanted = active[list(stored.targets)][:, list(stored.sources)][:, :, stored.columns]
        if wanted.all():
            return stored.split() if one_by_one else [stored.whole()]
        rows = [wanted[t : t + 1] for t in range(len(wanted))] if one_by_one else [wanted]
        return [stored.part(each, t if one_by_one else 0) for t, row in enumerate(rows) for each in rectangles(row)]

    def active_free(self, active: Tensor | None) -> list[int]:
        """Return the columns of the operations without weights that are computed.

        Args:
            active: Operations to compute, see ``FusedEdges.forward``.
        """
        if active is None:
            return self.free
        on = active.flatten(0, 1).any(0).tolist()
        return [c for c in self.free if on[c]]

    def pool_statistics(self, pools: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return running means and variances of pooled values as views, ``(pools * sources, channels)`` each.

        Args:
            pools: Columns of pooling operations, consecutive in ``pools``.
        """
        first = self.pools.index(pools[0]) * self.sources
        rows = slice(first, first + len(pools) * self.sources)
        return self.get_buffer("mean_pool")[rows], self.get_buffer("var_pool")[rows]


def _kind(position: int, operation: Operation) -> ConvolutionKind:
    assert isinstance(operation, (SeparableConvolution, DilatedConvolution))
    return ConvolutionKind(position, operation.kernel, 1 if isinstance(operation, SeparableConvolution) else 2)
