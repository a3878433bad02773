"""Names of the weights of the fused DARTS supernet in the public DARTS and PC-DARTS code."""

from collections.abc import Iterator, Mapping

from torch import nn

from lightning_nas.spaces.darts.edge_weights import EdgeWeights, RectangleWeights
from lightning_nas.spaces.darts.fused_edges import FusedEdges
from lightning_nas.spaces.darts.mixed_cell import MixedCell
from lightning_nas.spaces.supernet import Entry, Shape


def per_edge_entries(supernet: nn.Module) -> Iterator[Entry]:
    """Yield the tensors of a supernet in the naming of the public code; see ``Supernet.per_edge``.

    Args:
        supernet: A ``DARTSSupernet``, or a module that holds one.
    """
    own = (".fused_edges.", ".gates.")
    for name, value in supernet.state_dict().items():
        if not any(part in name for part in own):
            shape = tuple(value.shape)
            yield name, name, shape, (), shape
    for prefix, cell in supernet.named_modules():
        if isinstance(cell, MixedCell):
            rows = iter(cell.order)
            for i, edges in enumerate(cell.fused_edges):
                assert isinstance(edges, FusedEdges)
                weights = edges.weights
                names = {
                    (target, source): f"{prefix}._ops.{next(rows)}._ops"
                    for target in range(weights.targets)
                    for source in range(weights.sources)
                }
                yield from _edges(weights, f"{prefix}.fused_edges.{i}.weights.", names)


def _edges(weights: EdgeWeights, own: str, names: Mapping[tuple[int, int], str]) -> Iterator[Entry]:
    """All tensors of fused edges, whose own prefix is ``own``; ``names`` are public prefixes by target and source."""
    for (target, source), edge in names.items():
        for i, column in enumerate(weights.pools):
            if weights.allowed[target, source, column]:
                full = (len(weights.pools), weights.sources, weights.channels)
                yield from _statistics(f"{edge}.{column}.1", own, own, "pool", full, (i, source))
    for i, stored in enumerate(weights.rectangles):
        assert isinstance(stored, RectangleWeights)
        for t, target in enumerate(stored.targets):
            for s, source in enumerate(stored.sources):
                public = [f"{names[target, source]}.{column}" for column in stored.columns]
                yield from _edge(stored, own, f"{own}rectangles.{i}.", public, t, s)


def _edge(stored: RectangleWeights, whole: str, own: str, public: list[str], t: int, s: int) -> Iterator[Entry]:
    """The operations with weights of one edge, whose public prefixes are ``public``."""
    c, shapes = stored.channels, stored.shapes
    starts = [sum(kind.taps for kind in stored.kinds[:i]) for i in range(len(stored.kinds))]
    for i, (kind, start) in enumerate(zip(stored.kinds, starts, strict=True)):
        op = f"{public[i]}.op"
        square, point = (c, 1, kind.kernel, kind.kernel), (c, c, 1, 1)
        taps = (t, s, slice(None), slice(start, start + kind.taps))
        yield f"{op}.1.weight", f"{own}depthwise_1", shapes["depthwise_1"], taps, square
        last = 2
        if i < stored.separable:
            yield f"{op}.2.weight", f"{own}pointwise_1", shapes["pointwise_1"], (t, i, s), point
            yield from _statistics(f"{op}.3", whole, own, "1", shapes["mean_1"], (t, i, s))
            yield f"{op}.5.weight", f"{own}depthwise_2", shapes["depthwise_2"], taps, square
            last = 6
        yield f"{op}.{last}.weight", f"{own}pointwise_2", shapes["pointwise_2"], (t, i, s), point
        yield from _statistics(f"{op}.{last + 1}", whole, own, "2", shapes["mean_2"], (t, i, s))
    if stored.reduces:
        skip, half = public[-1], c // 2
        yield f"{skip}.conv_1.weight", f"{own}reduce_1", shapes["reduce_1"], (t, s), (half, c, 1, 1)
        yield f"{skip}.conv_2.weight", f"{own}reduce_2", shapes["reduce_2"], (t, s), (c - half, c, 1, 1)
        yield from _statistics(f"{skip}.bn", whole, own, "reduce", shapes["mean_reduce"], (t, 0, s))


def _statistics(public: str, whole: str, own: str, name: str, full: Shape, part: Shape) -> Iterator[Entry]:
    yield f"{public}.running_mean", f"{own}mean_{name}", full, part, full[-1:]
    yield f"{public}.running_var", f"{own}var_{name}", full, part, full[-1:]
    yield f"{public}.num_batches_tracked", f"{whole}batches", (), (), ()
