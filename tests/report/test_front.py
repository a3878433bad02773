"""Fronts of an objective and costs, their file and their pictures."""

from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from lightning_nas.errors import ArtifactError, ConfigError, DataError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.files.artifacts import write_json
from lightning_nas.report.figures import png, svg
from lightning_nas.report.front import Front
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.base import Result

SPACE = NASBench201Space()
POINTS = [(0.9, 5e6), (0.8, 5e6), (0.7, 2e6), (0.2, 1e6), (0.1, 4e6)]


def results(objective: str, rows: list[tuple[float, ...]], costs: tuple[str, ...]) -> list[Result]:
    """The i-th cell has the i-th row: the objective, then the costs."""
    return [
        (
            SPACE.architecture([i // 5 % 5, i % 5, i // 25 % 5, 3, 3, 3]),
            Evaluation({objective: value, "other": 0.0}, dict(zip(costs, paid, strict=True)) | {"seconds": 1.0}),
        )
        for i, (value, *paid) in enumerate(rows)
    ]


def test_a_front_by_hand() -> None:
    rows = [(0.9, 5.0), (0.8, 5.0), (0.7, 2.0), (0.7, 3.0), (0.2, 1.0), (0.1, 4.0), (0.7, 2.0)]
    found = results("accuracy", rows, ("macs",))
    front = Front(found, "accuracy", ["macs"])
    assert front.members == [4, 2, 6, 0]  # equal ones are all there
    assert front.chosen == 0
    assert front.points == rows
    assert front.rows() == [
        {
            "architecture": SPACE.text(found[i][0]),
            "choices": list(found[i][0].choices),
            "objectives": {"accuracy": rows[i][0], "other": 0.0},
            "cost": {"macs": rows[i][1], "seconds": 1.0},
        }
        for i in (4, 2, 6, 0)
    ]
    losses = Front(results("loss", rows, ("macs",)), "loss", ["macs"])
    assert losses.members == [4, 5]
    assert losses.chosen == 5


@pytest.mark.parametrize("objective", ["accuracy", "loss"])
def test_a_front_is_what_its_definition_says(objective: str) -> None:
    rows = [tuple(row) for row in torch.randint(6, (120, 3), generator=torch.Generator().manual_seed(1)).tolist()]

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        better = a[0] < b[0] if objective == "loss" else a[0] > b[0]
        return a != b and (better or a[0] == b[0]) and a[1] <= b[1] and a[2] <= b[2]

    expected = {i for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)}
    front = Front(results(objective, rows, ("macs", "latency_ms")), objective, ["macs", "latency_ms"])
    assert set(front.members) == expected
    assert 1 < len(front.members) == len(expected) < 120
    prices = [row["cost"]["macs"] for row in front.rows()]
    assert prices == sorted(prices)


def test_a_front_is_read_as_it_was_written() -> None:
    front = Front(results("accuracy", POINTS, ("parameters",)), "accuracy", ["parameters"])
    write_json("front.json", front.to_dict())
    again = Front.load("front.json")
    assert again.to_dict() == front.to_dict()
    assert again.members == front.members


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluated": []},
        {"evaluated": [{"choices": [0] * 6, "objectives": {"accuracy": float("nan")}, "cost": {"parameters": 1}}]},
        {"evaluated": [{"choices": [0] * 6, "objectives": {"accuracy": 1}, "cost": {"macs": 1}}]},
        {"evaluated": [{"choices": [0] * 6, "objectives": [], "cost": {}}]},
        {"evaluated": 3},
        {"costs": []},
        {"costs": 5},
        {"space": None},
        {"objective": "loss"},
    ],
)
def test_a_foreign_front_is_refused(changes: dict[str, Any]) -> None:
    front = Front(results("accuracy", POINTS, ("parameters",)), "accuracy", ["parameters"])
    path = write_json("front.json", {**front.to_dict(), **changes})
    with pytest.raises(ArtifactError, match=r"front\.json does not contain a front|Not an architecture"):
        Front.load(path)


def test_what_is_wrong_is_said() -> None:
    found = results("accuracy", [(0.5, 1.0), (float("-inf"), 0.0)], ("macs",))
    for objective, costs in (("synflow", ["macs"]), ("accuracy", ["parameters"])):
        with pytest.raises(
            ConfigError, match=r"objectives \['accuracy', 'other'\] and the costs \['macs', 'seconds'\]"
        ):
            Front(found, objective, costs)
    for some, costs in ((found, []), ([], ["macs"])):
        with pytest.raises(ConfigError, match="it would be empty"):
            Front(some, "accuracy", costs)
    with pytest.raises(DataError, match=r"Evaluations \[1\] of 2 have values that are not finite"):
        Front(found, "accuracy", ["macs"])


def test_the_picture_marks_front_and_choice() -> None:
    def drawn() -> Any:
        return Front(results("accuracy", POINTS, ("parameters",)), "accuracy", ["parameters"]).pictures()

    figure = drawn()["parameters"]
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[1e6, 0.2], [2e6, 0.7], [5e6, 0.9]]
    everyone, chosen = axes.collections
    assert everyone.get_offsets().tolist() == [[cost, value] for value, cost in POINTS]
    assert chosen.get_offsets().tolist() == [[5e6, 0.9]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("parameters", "accuracy")
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["evaluated", "not dominated: 3 of 5", "chosen"]
    picture = svg(figure, alt="a front")
    assert ElementTree.fromstring(picture).get("aria-label") == "a front"
    assert picture == svg(drawn()["parameters"], alt="a front")
    assert png(figure).startswith(b"\x89PNG")


def test_of_several_costs_each_has_its_picture() -> None:
    rows = [(0.9, 0.2, 1.0), (0.5, 0.4, 3.0), (0.7, 0.5, 0.5)]
    front = Front(results("loss", rows, ("latency_ms", "dollars")), "loss", ["latency_ms", "dollars"])
    assert front.members == [0, 1, 2]
    pictures = front.pictures()
    assert list(pictures) == ["latency_ms", "dollars"]
    for name, expected in (("latency_ms", [[0.2, 0.9], [0.4, 0.5]]), ("dollars", [[0.5, 0.7], [3.0, 0.5]])):
        (axes,) = pictures[name].axes
        (line,) = axes.lines
        assert line.get_xydata().tolist() == expected
        low, high = axes.get_xlim()
        assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 3
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "evaluated",
            "on the front of all costs: 3",
            "not dominated: 2 of 3",
            "chosen",
        ]
