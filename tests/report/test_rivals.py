"""Pictures that compare all networks of a run."""

import math

from lightning_nas.report.curves import Point
from lightning_nas.report.networks import Network
from lightning_nas.report.rivals import draw_costs, draw_learning, learning_curves

FOUND = Network("found", "found network", 0.95, None, (0.9, 0.98), 1000, 5000)


def test_accuracies_are_drawn_over_costs_on_an_axis_that_suits_them() -> None:
    near = Network("random", "random 0", 0.9, 0.01, None, 1200, 9000)
    far = Network("standard", "ResNet", 0.8, None, (0.7, 0.9), 90_000, 5e6)
    (axes,) = draw_costs([FOUND, near], "macs").axes
    assert axes.get_xscale() == "linear"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["random", "found"]  # type: ignore[union-attr]
    (axes,) = draw_costs([FOUND, near, far], "parameters").axes
    assert axes.get_xscale() == "log"
    for least, most in ((1100, 9500), (2100, 8900), (32_000, 800_000)):  # an axis without a power of ten, or with one
        within = [Network("random", "a", 0.9, None, None, each, 9000) for each in (least, most)]
        (axes,) = draw_costs(within, "parameters").axes
        axes.figure.canvas.draw()
        low, high = axes.get_xlim()
        assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 2
    timed = [Network("found", "found network", 0.95, None, None, 1000, 5000, latency_ms=ms) for ms in (0.4, 0.5)]
    (axes,) = draw_costs(timed, "latency_ms").axes
    axes.figure.canvas.draw()
    assert axes.get_xlabel() == "milliseconds per image, as measured"
    assert "0.40" in [label.get_text() for label in axes.get_xticklabels()]


def test_learning_curves_of_all_networks_share_an_axis() -> None:
    def points(*values: float) -> dict[str, list[Point]]:
        return {"train/loss": [Point(i, i, value) for i, value in enumerate(values)]}

    curves = {"train": points(2.0, 0.01), "random_0": points(2.0, 1.0), "random_1": points(3.0, math.nan)}
    stages = {"train": ("found", "found"), "random_0": ("random", "a"), "random_1": ("random", "b")}
    found, log = learning_curves(curves, {**stages, "gone": ("standard", "c")}, "train/loss")
    assert found == {
        "found": ("found", [(1, 2.0), (2, 0.01)]),
        "a": ("random", [(1, 2.0), (2, 1.0)]),
        "b": ("random", [(1, 3.0)]),
    }
    assert log
    (axes,) = draw_learning(found, "train/loss", log).axes
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["2 random", "found"]  # type: ignore[union-attr]
