"""Fronts of worth and costs, and their picture."""

from xml.etree import ElementTree

import pytest
import torch

from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.evolution.base import Result
from lightning_nas.report.draw import png, svg
from lightning_nas.report.front import front_picture, front_rows
from lightning_nas.spaces.nasbench201 import NASBench201Space

SPACE = NASBench201Space()


def results(objective: str, rows: list[tuple[float, ...]], costs: tuple[str, ...]) -> list[Result]:
    """The i-th cell has the i-th row: the objective, then the costs."""
    return [
        (
            SPACE.architecture([i // 5 % 5, i % 5, i // 25 % 5, 3, 3, 3]),
            Evaluation({objective: worth, "other": 0.0}, dict(zip(costs, paid, strict=True)) | {"seconds": 1.0}),
        )
        for i, (worth, *paid) in enumerate(rows)
    ]


def test_a_front_by_hand() -> None:
    rows = [(0.9, 5.0), (0.8, 5.0), (0.7, 2.0), (0.7, 3.0), (0.2, 1.0), (0.1, 4.0), (0.7, 2.0)]
    found = results("accuracy", rows, ("macs",))
    front = front_rows(found, "accuracy", ["macs"])
    assert front == [
        {
            "architecture": SPACE.text(found[i][0]),
            "objectives": {"accuracy": rows[i][0], "other": 0.0},
            "cost": {"macs": rows[i][1], "seconds": 1.0},
        }
        for i in (4, 2, 6, 0)  # equal ones are all there
    ]
    losses = results("loss", rows, ("macs",))
    assert [row["architecture"] for row in front_rows(losses, "loss", ["macs"])] == [SPACE.text(losses[4][0])] + [
        SPACE.text(losses[5][0])
    ]
    assert front_rows([], "accuracy", ["macs"]) == []


@pytest.mark.parametrize("objective", ["accuracy", "loss"])
def test_a_front_is_what_its_definition_says(objective: str) -> None:
    rows = [tuple(row) for row in torch.randint(6, (120, 3), generator=torch.Generator().manual_seed(1)).tolist()]
    found = results(objective, rows, ("macs", "latency_ms"))

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        better = a[0] < b[0] if objective == "loss" else a[0] > b[0]
        return a != b and (better or a[0] == b[0]) and a[1] <= b[1] and a[2] <= b[2]

    expected = {SPACE.text(found[i][0]) for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)}
    front = front_rows(found, objective, ["macs", "latency_ms"])
    assert {row["architecture"] for row in front} == expected
    assert 1 < len(front) == len(expected) < 120
    prices = [row["cost"]["macs"] for row in front]
    assert prices == sorted(prices)


def test_what_is_wrong_is_said() -> None:
    found = results("accuracy", [(0.5, 1.0), (float("-inf"), 0.0)], ("macs",))
    for objective, costs in (("synflow", ["macs"]), ("accuracy", ["parameters"]), ("accuracy", [])):
        with pytest.raises(
            ConfigError, match=r"objectives \['accuracy', 'other'\] and the costs \['macs', 'seconds'\]"
        ):
            front_rows(found, objective, costs)
    with pytest.raises(DataError, match=r"Values \[1\] of 2 are not finite"):
        front_rows(found, "accuracy", ["macs"])
    with pytest.raises(DataError, match=r"Values \[0\] of 1 are not finite"):
        front_picture([(float("nan"), 1.0)], ("macs", "accuracy"))
    with pytest.raises(DataError, match="one point at least"):
        front_picture([], ("macs", "accuracy"))


def test_the_picture_marks_front_and_choice() -> None:
    points = [(5e6, 0.9), (5e6, 0.8), (2e6, 0.7), (1e6, 0.2), (4e6, 0.1)]
    figure = front_picture(points, ("parameters", "accuracy"), chosen=2)
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[1e6, 0.2], [2e6, 0.7], [5e6, 0.9]]
    everyone, chosen = axes.collections
    assert everyone.get_offsets().tolist() == [list(point) for point in points]
    assert chosen.get_offsets().tolist() == [[2e6, 0.7]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("parameters", "accuracy")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "evaluated",
        "not dominated: 3 of 5",
        "chosen",
    ]
    picture = svg(figure, alt="a front")
    assert ElementTree.fromstring(picture).get("aria-label") == "a front"
    assert picture == svg(front_picture(points, ("parameters", "accuracy"), chosen=2), alt="a front")
    assert png(figure).startswith(b"\x89PNG")


def test_lower_losses_are_better_and_small_costs_keep_their_ticks() -> None:
    figure = front_picture([(0.2, 0.9), (0.4, 0.5), (0.5, 0.7)], ("latency_ms", "loss"))
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[0.2, 0.9], [0.4, 0.5]]
    low, high = axes.get_xlim()
    assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["evaluated", "not dominated: 2 of 3"]
