"""Supernet weights from and to the naming of the public DARTS and PC-DARTS code, one module an edge and operation."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lightning_nas.errors import DataError
from lightning_nas.spaces.mixture import MixedCell, wave_rows
from lightning_nas.spaces.wave import Wave

State = dict[str, Tensor]
Shape = tuple[int, ...]
Entry = tuple[str, str, Shape, tuple[int | slice, ...], Shape]
"""Public name, own name, full shape of the own tensor, its part, and the shape of the public one."""


def to_per_edge(supernet: nn.Module) -> State:
    """The state of a supernet in the public naming.

    Args:
        supernet: Of the DARTS space.

    Returns:
        Parameters and buffers. Gates and scores of attention, which the public code lacks, keep their own names.
    """
    own = supernet.state_dict()
    done: set[str] = set()
    state: State = {}
    for public, name, full, part, shape in _entries(supernet):
        state[public] = own[name].reshape(full)[part].reshape(shape).clone()
        done.add(name)
    return state | {name: value.clone() for name, value in own.items() if name not in done}


def from_per_edge(state: Mapping[str, Tensor], supernet: nn.Module) -> None:
    """Load a state in the public naming into a supernet.

    Args:
        state: Parameters and buffers, for instance of a published checkpoint.
        supernet: Of the DARTS space, with the same settings.

    Raises:
        DataError: A tensor is missing, left over, or of another shape.
    """
    own = {name: value.clone(memory_format=torch.contiguous_format) for name, value in supernet.state_dict().items()}
    used: set[str] = set()
    for public, name, full, part, shape in _entries(supernet):
        if public not in state:
            raise DataError(f"The state has no {public!r}; compare cells, nodes and operations.")
        if tuple(state[public].shape) != shape:
            raise DataError(
                f"{public!r} has the shape {tuple(state[public].shape)}; this supernet takes {shape}. "
                "Compare channels, partial_channels and classes."
            )
        target = own[name].view(full)[part]
        target.copy_(state[public].reshape(target.shape))
        used |= {public, name}
    rest = [name for name in own if name not in used]
    own |= {name: state[name] for name in rest if name in state}
    unknown = [name for name in state if name not in used and name not in own]
    if unknown:
        raise DataError(f"The state has {len(unknown)} tensors that this supernet lacks, such as {unknown[0]!r}.")
    supernet.load_state_dict(own)


def _entries(supernet: nn.Module) -> Iterator[Entry]:
    shapes = {name: tuple(value.shape) for name, value in supernet.state_dict().items()}
    for name, shape in shapes.items():
        if not name.startswith("cells."):
            yield name, name, shape, (), shape
    for prefix, cell in supernet.named_modules():
        if isinstance(cell, MixedCell):
            yield from _preprocessing(prefix, shapes)
            rows = iter(wave_rows(cell.node_count))
            for i, wave in enumerate(cell.waves):
                assert isinstance(wave, Wave)
                for target in range(wave.targets):
                    for source in range(wave.sources):
                        edge = f"{prefix}._ops.{next(rows)}._ops"
                        yield from _edge(wave, f"{prefix}.waves.{i}.", edge, target, source)


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


def _edge(wave: Wave, own: str, edge: str, t: int, s: int) -> Iterator[Entry]:
    """All tensors of one edge."""
    c = wave.channels
    starts = [sum(kind.taps for kind in wave.kinds[:i]) for i in range(len(wave.kinds))]
    for i, (kind, start) in enumerate(zip(wave.kinds, starts, strict=True)):
        public = f"{edge}.{wave.operations.index(kind.name)}.op"
        taps = slice(start, start + kind.taps)
        square = (c, 1, kind.kernel, kind.kernel)
        yield (
            f"{public}.1.weight",
            f"{own}depthwise_1",
            wave.shapes["depthwise_1"],
            (t, s, slice(None), taps),
            square,
        )
        last = 2
        if i < wave.separable:
            yield (
                f"{public}.2.weight",
                f"{own}pointwise_1",
                wave.shapes["pointwise_1"],
                (t, i, s),
                (c, c, 1, 1),
            )
            yield from _statistics(wave, f"{public}.3", own, "1", (t, i, s), c)
            yield (
                f"{public}.5.weight",
                f"{own}depthwise_2",
                wave.shapes["depthwise_2"],
                (t, s, slice(None), taps),
                square,
            )
            last = 6
        yield (
            f"{public}.{last}.weight",
            f"{own}pointwise_2",
            wave.shapes["pointwise_2"],
            (t, i, s),
            (c, c, 1, 1),
        )
        yield from _statistics(wave, f"{public}.{last + 1}", own, "2", (t, i, s), c)
    for i, name in enumerate(wave.pools):
        yield from _statistics(wave, f"{edge}.{wave.operations.index(name)}.1", own, "pool", (i, s), c)
    if wave.reduces:
        public = f"{edge}.{wave.operations.index('skip_connect')}"
        yield f"{public}.conv_1.weight", f"{own}reduce_1", wave.shapes["reduce_1"], (t, s), (c // 2, c, 1, 1)
        yield (
            f"{public}.conv_2.weight",
            f"{own}reduce_2",
            wave.shapes["reduce_2"],
            (t, s),
            (c - c // 2, c, 1, 1),
        )
        yield from _statistics(wave, f"{public}.bn", own, "reduce", (t, s), c)


def _statistics(wave: Wave, public: str, own: str, name: str, part: Shape, channels: int) -> Iterator[Entry]:
    full = wave.shapes[f"mean_{name}"]
    yield f"{public}.running_mean", f"{own}mean_{name}", full, part, (channels,)
    yield f"{public}.running_var", f"{own}var_{name}", full, part, (channels,)
    yield f"{public}.num_batches_tracked", f"{own}batches", (), (), ()
