"""The table for the terminal."""

import re
from pathlib import Path
from typing import Any

from lightning_nas.files.artifacts import read_json
from lightning_nas.report.screen import table, verdict
from tests.report.pages import EARLIER_ERRORS, FIDELITY, SUMMARY, with_results

DONE = [{"name": "search", "seconds": 60.5, "resumed": True}]


def lines(**fidelity: Any) -> list[tuple[str, str]]:
    printed = table({**SUMMARY, "stages": DONE, "fidelity": {**FIDELITY, "passed": False, **fidelity}})
    split = (re.split(r"\s{2,}", line, maxsplit=1) for line in printed.splitlines())
    return [(name, value) for name, value in split]


def rows(**fidelity: Any) -> dict[str, str]:
    return dict(lines(**fidelity))


def test_architectures_that_could_not_be_evaluated_are_counted() -> None:
    assert rows(failed=2)["architectures not evaluated"] == "2"
    assert "architectures not evaluated" not in rows(failed=0)
    assert "architectures not evaluated" not in rows()  # as an older run wrote it


def test_a_control_is_told_beside_the_proxy() -> None:
    control = {"kendall_tau": 0.5, "better": "neither"}
    found = rows(control=control)
    assert found["tau of real images of the same bytes"] == "0.50"
    assert found["ranks better"] == "not shown"
    assert rows(control={**control, "better": "control"})["ranks better"] == "control"
    assert rows(control={**control, "kendall_tau": None})["tau of real images of the same bytes"] == "-"
    assert "ranks better" not in rows()


def test_values_are_told_as_they_are() -> None:
    found = rows()
    assert found["search (since resumed)"] == "60.5 s"
    assert found["rank fidelity of the proxy, tau"] == "0.46 (below the threshold)"
    assert found["architectures ranked"] == "3 (informative only)"
    assert found["test accuracy"] == "98.89%"
    assert found["ResNet-8 of width 11, equal MACs"] == "97.50%"
    assert found["ResNet of equal parameters"] == "left out"
    assert found["selection errors, operations"] == "1 of 2 decided"


def test_the_result_comes_first_and_time_and_memory_last() -> None:
    names = list(rows())
    assert names[:3] == ["test accuracy", "random architectures", "the best of them"]
    assert names.index("parameters") < names.index("files") < names.index("selection errors, edges")
    assert names[-3:] == ["search (since resumed)", "whole run, wall clock", "peak memory"]
    with_images = {**SUMMARY, "stages": [], "fidelity": None, "test_interval": [0.97, 0.995], "test_images": 360}
    assert table(with_images).splitlines()[1].split(maxsplit=3)[3] == "97.00% to 99.50% (360 images)"


def test_the_verdict_is_that_of_the_report(tmp_path: Path) -> None:
    summary = read_json(with_results(tmp_path) / "summary.json", repair="")
    said = verdict(summary).splitlines()
    assert said[0].startswith("Better than the standard network, but cannot be told apart from the best of 3 random")
    assert any(
        line.startswith("Against random architecture 2, the best of 3 random networks (98.00%)") for line in said
    )
    assert max(map(len, said)) <= 100
    assert verdict({**SUMMARY, "random_test_accuracy": None}) == "The found network was compared with nothing."


def test_selection_errors_come_with_their_interval_and_what_is_undecided() -> None:
    every = lines()
    first = next(i for i, (name, _) in enumerate(every) if name == "selection errors, edges")
    assert every[first : first + 7] == [
        ("selection errors, edges", "0 of 0 decided"),
        ("undecided edges", "1 (1 tie)"),
        ("images they were measured on", "up to 64"),
        ("selection errors, operations", "1 of 2 decided"),
        ("their 95% interval", "9% to 91%"),
        ("undecided operations", "1"),
        ("images they were measured on", "up to 1,024"),
    ]


def test_selection_errors_of_an_earlier_version_are_told_as_they_were() -> None:
    told = table({**SUMMARY, "stages": DONE, "fidelity": None, "selection_errors": EARLIER_ERRORS}).splitlines()
    assert [line.split()[-3:] for line in told if "selection" in line] == [["1", "of", "2"]]
    assert "undecided" not in "".join(told)
