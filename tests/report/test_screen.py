"""The table for the terminal."""

from typing import Any

from lightning_nas.report.screen import table
from tests.report.pages import EARLIER_ERRORS, FIDELITY, SUMMARY

DONE = [{"name": "search", "seconds": 60.5, "resumed": True}]


def printed(**fidelity: Any) -> str:
    return table({**SUMMARY, "stages": DONE, "fidelity": {**FIDELITY, "passed": False, **fidelity}})


def rows(**fidelity: Any) -> dict[str, str]:
    return {line[:33].strip(): line[33:].strip() for line in printed(**fidelity).splitlines()}


def test_architectures_that_could_not_be_evaluated_are_counted() -> None:
    assert rows(failed=2)["architectures not evaluated"] == "2"
    assert "architectures not evaluated" not in rows(failed=0)
    assert "architectures not evaluated" not in rows()  # as an older run wrote it


def test_values_are_told_as_they_are() -> None:
    found = rows()
    assert found["search (since resumed)"] == "60.5 s"
    assert found["rank fidelity of the proxy, tau"] == "0.46 (below the threshold)"
    assert found["architectures ranked"] == "3 (informative only)"
    assert found["test accuracy"] == "98.89%"
    assert found["ResNet-8 of width 11, equal MACs"] == "97.50%"
    assert found["ResNet of equal parameters"] == "left out"
    assert found["selection errors, operations"] == "1 of 2 decided"


def test_selection_errors_come_with_their_interval_and_what_is_undecided() -> None:
    lines = [line[:33].strip() + ": " + line[33:].strip() for line in printed().splitlines()]
    assert lines[-7:] == [
        "selection errors, edges: 0 of 0 decided",
        "undecided edges: 1 (1 tie)",
        "images they were measured on: up to 64",
        "selection errors, operations: 1 of 2 decided",
        "their 95% interval: 9% to 91%",
        "undecided operations: 1",
        "images they were measured on: up to 1,024",
    ]


def test_selection_errors_of_an_earlier_version_are_told_as_they_were() -> None:
    lines = table({**SUMMARY, "stages": DONE, "fidelity": None, "selection_errors": EARLIER_ERRORS}).splitlines()
    assert [line.split()[-3:] for line in lines if "selection" in line] == [["1", "of", "2"]]
    assert "undecided" not in "".join(lines)
