"""Pictures of cells, curves, alphas and images."""

import base64
import io
import math
from typing import Any

import pytest
import torch
from matplotlib.image import imread

from lightning_nas.report.draw import draw_alphas, draw_cell, draw_curves, draw_images, edge_names
from lightning_nas.report.figures import png_data_uri, svg
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.graph import Graph
from lightning_nas.spaces.nasbench201.space import NASBench201Space


def cells(count: int) -> list[Graph]:
    space, generator = DARTSSpace(), torch.Generator().manual_seed(3)
    return [graph for _ in range(count) for graph in space.graphs(space.sample(generator))]


def test_labels_of_a_cell_do_not_touch() -> None:
    for graph in cells(2):
        figure = draw_cell(graph)
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) >= len(graph.nodes) + sum(bool(label) for _, _, label in graph.edges)
        for i, box in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
            assert not [other for other in boxes[:i] if box.overlaps(other)]


def test_small_and_odd_pictures() -> None:
    graph = Graph("one $ <b>", ("a$", "b"), ((0, 1, "a_very_long_operation_with_$_inside"),))
    assert "<b>" not in svg(draw_cell(graph), "a <b>")
    long = [(i, math.sin(i)) for i in range(5000)]
    figure = draw_curves({"long": long, "one": [(3, 1.0)]}, "loss")
    assert len(figure.axes[0].lines[0].get_xdata()) <= 400
    assert draw_curves({"a": [(1, 1.0), (2, 1e-6)]}, "loss", log=True).axes[0].get_yscale() == "log"
    draw_curves({}, "loss")
    assert svg(draw_alphas(torch.rand(1, 2, 10))).startswith("<svg ")
    for shape in ((2, 3, 200, 100), (1, 1, 8, 8), (0, 1, 8, 8), (3, 5, 40, 40)):
        assert png_data_uri(draw_images([("a", torch.rand(shape)), ("b" * 40, torch.rand(shape))])).startswith(
            "data:image/png;base64,iVBOR"
        )
    draw_images([])


def test_images_are_shown_as_they_are() -> None:
    red, blue = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    image = torch.stack([red, blue])[None, :, :, None].permute(0, 2, 1, 3).expand(1, 3, 2, 2)
    uri = png_data_uri(draw_images([("", image)]))
    pixels = torch.from_numpy(imread(io.BytesIO(base64.b64decode(uri.split(",")[1]))))[..., :3]
    assert torch.equal(pixels[5, 30], red)
    assert torch.equal(pixels[60, 30], blue)


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (DARTSSpace(nodes=2), ["c_{k-2} → 0", "c_{k-1} → 0", "c_{k-2} → 1", "c_{k-1} → 1", "0 → 1"]),
        (
            NASBench201Space(),
            ["c_{k-1} → 1", "c_{k-1} → 2", "1 → 2", "c_{k-1} → c_{k}", "1 → c_{k}", "2 → c_{k}"],
        ),
    ],
    ids=["darts", "nasbench201"],
)
def test_rows_of_alphas_are_named_by_their_edges(space: Any, names: list[str]) -> None:
    architecture = space.sample(torch.Generator().manual_seed(0))
    assert edge_names(space, space.graphs(architecture)[0]) == names
