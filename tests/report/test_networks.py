"""What a report says about the networks of a run, and how sure it is."""

from typing import Any

import pytest

from lightning_nas.files.artifacts import write_json
from lightning_nas.report.networks import headline, light, networks, scale, statements
from lightning_nas.report.run import compare
from lightning_nas.report.summary import Summary
from tests.report.pages import FIDELITY, SUMMARY


def summary(**changes: Any) -> Summary:
    return Summary.load(write_json("summary.json", {**SUMMARY, **changes}))


def against(kind: str, verdict: str | None, p: float | None = 0.2) -> dict[str, Any]:
    counts = dict.fromkeys(("better", "worse", "ties"), None if verdict is None else 5)
    return {"kind": kind, "label": f"a {kind} one", "test_accuracy": 0.9, "verdict": verdict, "p": p, **counts}


@pytest.mark.parametrize(
    ("verdicts", "kind", "words"),
    [
        (
            ("better", "better"),
            "win",
            "is better than the best of 3 random networks and the standard network",
        ),
        (("better", "equal"), "", "but cannot be told apart from the standard network on these test images"),
        (("equal", "equal"), "", "cannot be told apart from the best of 3 random networks and the standard network"),
        (("worse", "better"), "lose", "The best of 3 random networks is better than the found network"),
        (("worse", "worse"), "lose", "networks and the standard network are better than the found network"),
        ((None, None), "win", "The found network is better than the random ones"),  # by the spread of the random ones
    ],
)
def test_the_headline_is_green_only_where_every_test_shows_it(
    verdicts: tuple[str | None, str | None], kind: str, words: str
) -> None:
    p = None if verdicts[0] is None else 0.2
    found = summary(
        comparisons=[against(k, v, p) for k, v in zip(("random", "standard"), verdicts, strict=True)],
        random_test_accuracies=[0.96, 0.97, 0.98],
    )
    said = headline(found, compare(found))
    assert said.kind == kind
    assert words in said.words
    assert [each.kind for each in statements(found)] == [
        {"better": "win", "worse": "lose"}.get(str(verdict), "") for verdict in verdicts
    ]


def test_without_anything_to_compare_with_there_is_no_verdict() -> None:
    found = summary(random_test_accuracy=None, random_test_accuracies=[], random_parameters=[], random_macs=[])
    assert headline(found, compare(found)).words == "The found network was compared with nothing"


def test_statements_name_the_test_and_its_chance() -> None:
    (said,) = statements(summary(comparisons=[against("random", "equal", 0.5)]))
    assert "alone is right on 5 test images, the other one on 5, and 5 are ties" in said.words
    assert "They cannot be told apart (p = 0.500, exact McNemar's test)." in said.words
    (said,) = statements(summary(comparisons=[against("random", "worse", 1e-5)], test_accuracies=[0.9, 0.98]))
    assert "is right more often over the seeds" in said.words
    assert "(p < 0.001, exact sign test over images)" in said.words
    (said,) = statements(summary(comparisons=[against("standard", None, None)]))
    assert "results by image were not kept" in said.words


def test_all_networks_are_listed_with_intervals_and_deviations() -> None:
    found = networks(summary(test_images=360, test_accuracies=[0.98, 0.9978]))
    assert [each.kind for each in found] == ["found", "random", "standard", "random", "random"]
    assert found[0].deviation == pytest.approx(0.01259, abs=1e-5)
    assert found[0].interval == pytest.approx((0.9718, 0.9957), abs=1e-3)
    assert [each.macs for each in found] == [9213440, 2003, 9004321, 2002, 2001]
    low, high = scale(found)
    assert low < min(each.ends[0] for each in found)
    assert max(each.ends[1] for each in found) <= high <= 1
    assert networks(summary())[0].ends == (0.9889, 0.9889)


@pytest.mark.parametrize(
    ("changes", "colour"),
    [
        ({"informative_only": False}, "green"),
        ({}, "amber"),
        ({"informative_only": False, "interval": [-0.1, 0.8]}, "amber"),
        ({"kendall_tau": -0.25, "threshold": None}, "red"),
        ({"kendall_tau": None, "interval": [None, None]}, "red"),
        ({"threshold": 0.5}, "red"),
    ],
)
def test_the_light_of_the_proxy(changes: dict[str, Any], colour: str) -> None:
    found = light(summary(fidelity={**FIDELITY, **changes}).fidelity)
    assert found is not None
    assert found.colour == colour
    assert "costs 1.23 points of accuracy" in found.words
    assert light(None) is None
