"""What the public DARTS code calls the weights of a supernet."""

from collections.abc import Iterator, Mapping

from torch import nn

from lightning_nas.spaces.base import Entry, Shape
from lightning_nas.spaces.darts.edge_weights import EdgeWeights
from lightning_nas.spaces.darts.fused_edges import FusedEdges
from lightning_nas.spaces.darts.mixed_cell import MixedCell


def per_edge_entries(supernet: nn.Module) -> Iterator[Entry]:
    """The tensors of a DARTS supernet in the naming of the public DARTS and PC-DARTS code."""
    shapes = {name: tuple(value.shape) for name, value in supernet.state_dict().items()}
    for name, shape in shapes.items():
        if not name.startswith("cells."):
            yield name, name, shape, (), shape
    for prefix, cell in supernet.named_modules():
        if isinstance(cell, MixedCell):
            yield from _preprocessing(prefix, shapes)
            rows = iter(cell.order)
            for i, wave in enumerate(cell.waves):
                assert isinstance(wave, FusedEdges)
                names = {
                    (target, source): f"{prefix}._ops.{next(rows)}._ops"
                    for target in range(wave.targets)
                    for source in range(wave.sources)
                }
                yield from _wave(wave, f"{prefix}.waves.{i}.", names)


def _preprocessing(prefix: str, shapes: Mapping[str, Shape]) -> Iterator[Entry]:
    for name, shape in shapes.items():
        for i in (0, 1):
            own = f"{prefix}.preprocess_{i}."
            if name.startswith(own):
                rest = name.removeprefix(own)
                # a sequence of layers is the attribute ``op`` there
                yield (
                    f"{prefix}.preprocess{i}.{'op.' if rest[0].isdigit() else ''}{rest}",
                    name,
                    shape,
                    (),
                    shape,
                )


def _wave(wave: FusedEdges, own: str, names: Mapping[tuple[int, int], str]) -> Iterator[Entry]:
    """All tensors of a wave.

    Args:
        wave: The wave.
        own: Prefix of its own names.
        names: Public prefix of every edge by target and source.
    """
    for (target, source), edge in names.items():
        for i, name in enumerate(wave.pools):
            index = wave.operations.index(name)
            if wave.allowed[target, source, index]:
                full = (len(wave.pools), wave.sources, wave.channels)
                yield from _statistics(f"{edge}.{index}.1", own, own, "pool", full, (i, source))
    for i, edges in enumerate(wave.edges):
        assert isinstance(edges, EdgeWeights)
        for t, target in enumerate(edges.targets):
            for s, source in enumerate(edges.sources):
                public = {name: f"{names[target, source]}.{wave.operations.index(name)}" for name in edges.operations}
                yield from _edge(edges, own, f"{own}edges.{i}.", public, t, s)


def _edge(edges: EdgeWeights, wave: str, own: str, names: Mapping[str, str], t: int, s: int) -> Iterator[Entry]:
    """The weighted operations of one edge, whose public prefixes are ``names``."""
    c, shapes = edges.channels, edges.shapes
    starts = [sum(kind.taps for kind in edges.kinds[:i]) for i in range(len(edges.kinds))]
    for i, (kind, start) in enumerate(zip(edges.kinds, starts, strict=True)):
        public = f"{names[edges.operations[i]]}.op"
        square, point = (c, 1, kind.kernel, kind.kernel), (c, c, 1, 1)
        taps = (t, s, slice(None), slice(start, start + kind.taps))
        yield f"{public}.1.weight", f"{own}depthwise_1", shapes["depthwise_1"], taps, square
        last = 2
        if i < edges.separable:
            yield f"{public}.2.weight", f"{own}pointwise_1", shapes["pointwise_1"], (t, i, s), point
            yield from _statistics(f"{public}.3", wave, own, "1", shapes["mean_1"], (t, i, s))
            yield f"{public}.5.weight", f"{own}depthwise_2", shapes["depthwise_2"], taps, square
            last = 6
        yield f"{public}.{last}.weight", f"{own}pointwise_2", shapes["pointwise_2"], (t, i, s), point
        yield from _statistics(f"{public}.{last + 1}", wave, own, "2", shapes["mean_2"], (t, i, s))
    if edges.reduces:
        public, half = names["skip_connect"], c // 2
        yield f"{public}.conv_1.weight", f"{own}reduce_1", shapes["reduce_1"], (t, s), (half, c, 1, 1)
        yield f"{public}.conv_2.weight", f"{own}reduce_2", shapes["reduce_2"], (t, s), (c - half, c, 1, 1)
        yield from _statistics(f"{public}.bn", wave, own, "reduce", shapes["mean_reduce"], (t, 0, s))


def _statistics(public: str, wave: str, own: str, name: str, full: Shape, part: Shape) -> Iterator[Entry]:
    yield f"{public}.running_mean", f"{own}mean_{name}", full, part, full[-1:]
    yield f"{public}.running_var", f"{own}var_{name}", full, part, full[-1:]
    yield f"{public}.num_batches_tracked", f"{wave}batches", (), (), ()
