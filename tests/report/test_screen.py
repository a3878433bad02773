"""The table for the terminal."""

from typing import Any

from lightning_nas.report.screen import table
from tests.report.pages import FIDELITY, SUMMARY


def rows(**fidelity: Any) -> dict[str, str]:
    done = [{"name": "search", "seconds": 60.5, "resumed": True}]
    printed = table({**SUMMARY, "stages": done, "fidelity": {**FIDELITY, "passed": False, **fidelity}})
    return {line[:33].strip(): line[33:].strip() for line in printed.splitlines()}


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
    assert found["selection errors, operations"] == "1 of 2"
