"""Features of cells: equal for cells that compute the same, and counted by hand."""

from math import log1p
from typing import Any

import pytest
import torch

from lightning_nas.spaces import ConstrainedSpace, DARTSSpace, NASBench101Space, NASBench201Space, SinglePathSpace
from lightning_nas.spaces.features import path_features
from tests.spaces.own_space import PyramidSpace

SPACE = NASBench201Space()
SMALL = SinglePathSpace(widths=[16, 32], depths=[2, 3], strides=[1, 2], stem_stride=1, last=16)


def plain(features: Any) -> dict[str, dict[str, float]]:
    return {group: dict(named) for group, named in features.items()}


def test_dead_edges_do_not_count_and_skips_are_no_operation_of_a_path() -> None:
    cell = SPACE.parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|")
    count = {operation.name: operation.parameter_count for operation in SPACE.candidates}
    assert plain(SPACE.features(cell)) == {
        "edges": {
            "0>1 nor_conv_3x3": 1,
            "1>2 skip_connect": 1,
            "0>3 skip_connect": 1,
            "1>3 nor_conv_1x1": 1,
            "2>3 avg_pool_3x3": 1,
        },
        "paths": {"": 1, "nor_conv_3x3 nor_conv_1x1": 1, "nor_conv_3x3 avg_pool_3x3": 1},
        "operations": {"nor_conv_3x3": 1, "skip_connect": 2, "nor_conv_1x1": 1, "avg_pool_3x3": 1},
        "depth": {"longest": 2},
        "size": {"parameters": log1p(count["nor_conv_3x3"] + count["nor_conv_1x1"])},
    }
    dead = [
        SPACE.parse(f"|{first}~0|+|none~0|{second}~1|+|nor_conv_3x3~0|none~1|none~2|")
        for first, second in (("nor_conv_3x3", "none"), ("none", "nor_conv_1x1"), ("avg_pool_3x3", "skip_connect"))
    ]
    assert plain(SPACE.features(dead[0])) == plain(SPACE.features(dead[1])) == plain(SPACE.features(dead[2]))


def test_paths_of_equal_operations_are_counted_together_and_none_is_no_path() -> None:
    twice = SPACE.parse("|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|skip_connect~1|skip_connect~2|")
    assert plain(SPACE.features(twice))["paths"] == {"nor_conv_3x3": 2}
    nothing = SPACE.parse("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    empty: dict[str, Any] = {"edges": {}, "paths": {}, "operations": {}, "depth": {"longest": 0}}
    assert plain(SPACE.features(nothing)) == {**empty, "size": {"parameters": 0}}


def test_isomorphic_cells_have_the_same_features() -> None:
    cells = [
        NASBench101Space.parse("conv3x3-bn-relu(0) maxpool3x3(0) conv1x1-bn-relu(1) output(2,3)"),
        NASBench101Space.parse("maxpool3x3(0) conv3x3-bn-relu(0) conv1x1-bn-relu(2) output(1,3)"),
    ]
    space = NASBench101Space()
    first, second = (plain(space.features(cell)) for cell in cells)
    assert first == second
    assert cells[0] != cells[1]
    assert first["paths"] == {"conv3x3-bn-relu conv1x1-bn-relu": 1, "maxpool3x3": 1}
    assert first["operations"] == {"conv3x3-bn-relu": 1, "conv1x1-bn-relu": 1, "maxpool3x3": 1}
    assert first["depth"] == {"longest": 2}
    assert first["edges"]["conv3x3-bn-relu>conv1x1-bn-relu conv3x3-bn-relu"] == 1
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        cell = space.sample(generator)
        assert plain(space.features(cell)) == plain(space.features(space.canonical(cell)))


def test_cell_types_are_kept_apart() -> None:
    for space in (DARTSSpace(), PyramidSpace()):
        features = space.features(space.sample(torch.Generator().manual_seed(1)))
        assert set(features) == {"edges", "paths", "operations", "depth", "size"}
        for named in features.values():
            assert {name.split(" ")[0] for name in named} <= set(space.cell_types)
        assert len(features["depth"]) == len(features["size"]) == 2


def test_other_spaces_have_their_choices_and_constraints_change_nothing() -> None:
    some = SMALL.architecture((0, 3, 1, 2, 0))
    assert plain(SMALL.features(some)) == {
        "choices": {"0=0": 1, "1=3": 1, "2=1": 1, "3=2": 1, "4=0": 1},
        "values": {"0": 0, "1": 1, "2": 1 / 3, "3": 2 / 3, "4": 0},
    }
    limited = ConstrainedSpace(SPACE, lambda a: {"size": float(sum(a.choices))}, {"size": 5})
    assert plain(limited.features(SPACE.largest())) == plain(SPACE.features(SPACE.largest()))


@pytest.mark.parametrize("space", [SPACE, NASBench101Space(), DARTSSpace(), SMALL], ids=lambda s: type(s).__name__)
def test_features_are_checked_and_tell_architectures_apart(space: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [space.sample(generator) for _ in range(20)]
    assert len({str(plain(space.features(a))) for a in drawn}) >= 15
    other = SPACE if space is not SPACE else SMALL
    with pytest.raises(Exception, match="was expected"):
        space.features(other.largest())


def test_a_path_needs_an_input() -> None:
    edges = ((0, 2, "a", "x"), (1, 2, "b", "y"), (3, 4, "c", "z"), (2, 4, "d", ""))
    found = path_features(edges, 2, 4, frozenset([""]))
    assert found["paths"] == {"x": 1, "y": 1}
    assert set(found["edges"]) == {"a x", "b y", "d "}
    assert found["operations"] == {"x": 1, "y": 1}
