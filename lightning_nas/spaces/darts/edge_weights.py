"""Weights of operations on the edges of a DARTS cell, stacked over the edges."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Block(NamedTuple):
    """All edges from some sources to some targets, with some operations; indices."""

    targets: tuple[int, ...]
    sources: tuple[int, ...]
    operations: tuple[int, ...]


def blocks(mask: Tensor) -> list[Block]:
    """Split a set of operations on edges into as few rectangles as is simple.

    Operations whose edges to a target come from the same sources go together; of those, targets with the same
    operations, or operations with the same targets, whichever gives fewer rectangles.

    Args:
        mask: Bool ``(targets, sources, operations)``.

    Returns:
        Disjoint rectangles that cover the set and nothing else.
    """
    found: list[Block] = []
    rows: dict[tuple[int, ...], dict[int, list[int]]] = {}
    for target, of_target in enumerate(mask.permute(0, 2, 1).tolist()):
        for operation, of_sources in enumerate(of_target):
            sources = tuple(s for s, on in enumerate(of_sources) if on)
            if sources:
                rows.setdefault(sources, {}).setdefault(target, []).append(operation)
    for sources, by_target in rows.items():
        by_operation: dict[int, list[int]] = {}
        for target, operations in by_target.items():
            for operation in operations:
                by_operation.setdefault(operation, []).append(target)
        targets_of, operations_of = _grouped(by_target), _grouped(by_operation)
        if len(targets_of) <= len(operations_of):
            found += [Block(targets, sources, operations) for operations, targets in targets_of.items()]
        else:
            found += [Block(targets, sources, operations) for targets, operations in operations_of.items()]
    return found


def _grouped(values: dict[int, list[int]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The keys of equal values, by value."""
    keys: dict[tuple[int, ...], tuple[int, ...]] = {}
    for key in sorted(values):
        keys[tuple(values[key])] = (*keys.get(tuple(values[key]), ()), key)
    return keys


class Convolution(NamedTuple):
    """A convolutional operation: depthwise and pointwise, once or (separable) twice."""

    position: int
    kernel: int
    dilation: int

    @property
    def taps(self) -> int:
        """Weights of one channel."""
        return self.kernel**2


class RunningStats(NamedTuple):
    """Running mean and variance ``(groups, channels)``, of which some rows are meant."""

    mean: Tensor
    variance: Tensor
    rows: slice | Tensor

    def read(self) -> tuple[Tensor, Tensor]:
        """The rows; views if they are a slice."""
        return self.mean[self.rows], self.variance[self.rows]

    def write(self, changed: tuple[Tensor, Tensor]) -> None:
        """Keep what was changed in place."""
        if not isinstance(self.rows, slice):
            self.mean[self.rows], self.variance[self.rows] = changed


class EdgeSlice(NamedTuple):
    """What is computed in one go: convolutions on all edges from some sources to some targets.

    T, K, S, C below are targets, convolutions, sources and channels.

    Attributes:
        targets: Indices in the wave.
        sources: Indices in the wave.
        kinds: The convolutions, separable before dilated; ``position`` counts the wave's.
        reduces: Whether the edges have a strided skip.
        weights: ``depthwise_1`` ``(T, S, C, taps of all kinds)``, ``pointwise_2`` ``(T, K, S, C, C)``; of the separable
            kinds ``depthwise_2`` and ``pointwise_1`` likewise; ``reduce_1`` and ``reduce_2`` ``(T, S, C / 2, C)``.
        running: Batch-norm statistics: after ``pointwise_1`` ("1"), ``pointwise_2`` ("2") and the skip ("reduce").
    """

    targets: tuple[int, ...]
    sources: tuple[int, ...]
    kinds: tuple[Convolution, ...]
    reduces: bool
    weights: dict[str, Tensor]
    running: dict[str, RunningStats]

    @property
    def separable(self) -> int:
        """Number of separable convolutions."""
        return sum(kind.dilation == 1 for kind in self.kinds)


_GROUPED = {"depthwise_1": False, "depthwise_2": False, "pointwise_1": True, "pointwise_2": True}
"""Whether the second dimension counts kinds; the depthwise weights keep them side by side in the last one."""


class EdgeWeights(nn.Module):
    """Weights and batch-norm statistics of some operations on all edges from some sources to some targets.

    Args:
        block: Targets, sources and operations as indices in the wave.
        names: What the indices of operations stand for, convolutions before the skip.
        channels: Channels of the operations.
    """

    def __init__(self, block: Block, names: Sequence[str], channels: int) -> None:
        super().__init__()
        self.targets, self.sources = block.targets, block.sources
        self.channels = channels
        self.operations = tuple(names[i] for i in sorted(block.operations))
        self.kinds = tuple(
            Convolution(i, int(names[i][-1]), 1 if names[i].startswith("sep") else 2)
            for i in sorted(block.operations)
            if "conv" in names[i]
        )
        self.reduces = "skip_connect" in self.operations
        self.separable = sum(kind.dilation == 1 for kind in self.kinds)
        self.shapes: dict[str, tuple[int, ...]] = {}
        t, s, count = len(self.targets), len(self.sources), len(self.kinds)
        taps = [kind.taps for kind in self.kinds]
        if count:
            self._uniform("depthwise_1", taps, t, s, channels)
            self._uniform("pointwise_2", [channels], t, count, s, channels)
            self._statistics("2", t, count, s)
        if self.separable:
            self._uniform("depthwise_2", taps[: self.separable], t, s, channels)
            self._uniform("pointwise_1", [channels], t, self.separable, s, channels)
            self._statistics("1", t, self.separable, s)
        if self.reduces:
            self._uniform("reduce_1", [channels], t, s, channels // 2)
            self._uniform("reduce_2", [channels], t, s, channels - channels // 2)
            self._statistics("reduce", t, 1, s)

    def _uniform(self, name: str, fans: Sequence[int], *shape: int) -> None:
        """Add weights drawn as ``nn.Conv2d`` draws them: uniform within ``1 / sqrt(fan)``."""
        parts = [torch.empty(*shape, n).uniform_(-(n**-0.5), n**-0.5) for n in fans]
        # of no more dimensions than three: a change of the memory format, which is for images, leaves them alone
        self.register_parameter(name, nn.Parameter(torch.cat(parts, dim=-1).flatten(1, -2)))
        self.shapes[name] = (*shape, sum(fans))

    def _statistics(self, name: str, *shape: int) -> None:
        groups = shape[0] * shape[1] * shape[2]
        self.register_buffer(f"mean_{name}", torch.zeros(groups, self.channels))
        self.register_buffer(f"var_{name}", torch.ones(groups, self.channels))
        self.shapes |= {f"mean_{name}": (*shape, self.channels), f"var_{name}": (*shape, self.channels)}

    def _views(self) -> dict[str, Tensor]:
        return {name: p.view(self.shapes[name]) for name, p in self.named_parameters()}

    def _running(self, rows: Mapping[str, slice | Tensor]) -> dict[str, RunningStats]:
        return {
            name: RunningStats(self.get_buffer(f"mean_{name}"), self.get_buffer(f"var_{name}"), of_name)
            for name, of_name in rows.items()
        }

    @property
    def _normalised(self) -> list[str]:
        return [name.removeprefix("mean_") for name in self.shapes if name.startswith("mean_")]

    def whole(self) -> EdgeSlice:
        """Everything at once."""
        running = self._running({name: slice(None) for name in self._normalised})
        return EdgeSlice(self.targets, self.sources, self.kinds, self.reduces, self._views(), running)

    def split(self) -> list[EdgeSlice]:
        """One part a target."""
        # one split costs less than slices: its gradient is one concatenation
        pieces = {name: p.split(1) for name, p in self._views().items()}
        parts = []
        for i, target in enumerate(self.targets):
            rows = {}
            for name in self._normalised:
                groups = self.shapes[f"mean_{name}"][1] * self.shapes[f"mean_{name}"][2]
                rows[name] = slice(i * groups, (i + 1) * groups)
            weights = {name: piece[i] for name, piece in pieces.items()}
            parts.append(EdgeSlice((target,), self.sources, self.kinds, self.reduces, weights, self._running(rows)))
        return parts

    def part(self, block: Block, first: int = 0) -> EdgeSlice:
        """Some of it.

        Args:
            block: Positions in ``targets``, ``sources`` and ``operations``.
            first: What to add to the positions of targets.
        """
        targets = tuple(first + t for t in block.targets)
        chosen = [i for i in sorted(block.operations) if i < len(self.kinds)]
        reduces = len(chosen) < len(block.operations)
        weights: dict[str, Tensor] = {}
        rows: dict[str, slice | Tensor] = {}
        views = self._views()
        for name, by_kind in _GROUPED.items():
            kinds = [i for i in chosen if not name.endswith("1" if by_kind else "2") or i < self.separable]
            if name in views and kinds:
                weights[name] = self._taken(views[name], targets, block.sources, kinds, by_kind)
        for name, kinds in (("2", chosen), ("1", [i for i in chosen if i < self.separable])):
            if kinds:
                rows[name] = self._rows(name, targets, kinds, block.sources)
        if reduces:
            weights |= {n: take(take(views[n], 0, targets), 1, block.sources) for n in ("reduce_1", "reduce_2")}
            rows["reduce"] = self._rows("reduce", targets, [0], block.sources)
        return EdgeSlice(
            tuple(self.targets[t] for t in targets),
            tuple(self.sources[s] for s in block.sources),
            tuple(self.kinds[i] for i in chosen),
            reduces,
            weights,
            self._running(rows),
        )

    def _taken(
        self, view: Tensor, targets: Sequence[int], sources: Sequence[int], kinds: Sequence[int], by_kind: bool
    ) -> Tensor:
        x = take(view, 0, targets)
        if by_kind:
            return take(take(x, 1, kinds), 2, sources)
        taps = [kind.taps for kind in self.kinds]
        starts = [sum(taps[:i]) for i in range(len(taps))]
        columns = [c for i in kinds for c in range(starts[i], starts[i] + taps[i])]
        return take(take(x, 1, sources), 3, columns)

    def _rows(self, name: str, targets: Sequence[int], kinds: Sequence[int], sources: Sequence[int]) -> Tensor:
        _, k, s, _ = self.shapes[f"mean_{name}"]
        rows = [(t * k + i) * s + j for t in targets for i in kinds for j in sources]
        return torch.tensor(rows, device=self.get_buffer(f"mean_{name}").device)


def take(x: Tensor, dim: int, indices: Sequence[int]) -> Tensor:
    """Some of a dimension in ascending order; the tensor itself where that is all."""
    if len(indices) == x.shape[dim]:
        return x
    if list(indices) == list(range(indices[0], indices[0] + len(indices))):
        return x.narrow(dim, indices[0], len(indices))
    return x.index_select(dim, torch.tensor(indices, device=x.device))
