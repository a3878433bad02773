"""Layouts of cells without overlaps."""

import pytest
import torch

from lightning_nas.report.layout import layers, place
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.graph import Graph


def graphs(space: DARTSSpace, count: int) -> list[Graph]:
    generator = torch.Generator().manual_seed(3)
    return [graph for _ in range(count) for graph in space.graphs(space.sample(generator))]


@pytest.mark.parametrize("nodes", [1, 4, 6])
def test_nothing_overlaps_in_a_layout(nodes: int) -> None:
    for graph in graphs(DARTSSpace(nodes=nodes), 3):
        layout = place(graph)
        assert layout == place(graph)
        things = [(2 * layer, 2 * layer, y) for layer, y in zip(layout.layers, layout.nodes, strict=True)]
        for (source, target, _), y in zip(graph.edges, layout.edges, strict=True):
            things.append((2 * layout.layers[source] + 1, 2 * layout.layers[target] - 1, y))
        for i, (first, last, y) in enumerate(things):
            for other_first, other_last, other_y in things[:i]:
                assert max(first, other_first) > min(last, other_last) or abs(y - other_y) >= 1


def test_layers_are_longest_paths() -> None:
    assert layers(Graph("g", ("a", "b", "c", "d"), ((0, 1, "x"), (0, 2, "x"), (1, 2, "x"), (0, 3, "")))) == (0, 1, 2, 1)
