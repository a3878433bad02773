"""The summary of a pipeline, and what is wrong with a broken one."""

from typing import Any

import pytest

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import write_json
from lightning_nas.report.screen import table
from lightning_nas.report.summary import Summary
from tests.report.pages import FIDELITY, SUMMARY

ERRORS = SUMMARY["selection_errors"]["edges"]


def test_a_summary_is_read_with_defaults_for_what_is_missing() -> None:
    needed = {key: SUMMARY[key] for key in ("seed", "stages", "parameters", "macs", "test_accuracy")}
    found = Summary.load(write_json("summary.json", needed))
    assert found.stages == [("search", 60.5), ("train", 30.25)]
    assert found.seconds_total == 90.75
    assert found.random_test_accuracies == []
    assert found.proxy_images is found.selection is found.fidelity is found.peak_memory_mb is None
    assert set(found.texts.values()) == {""}
    whole = Summary.load(write_json("summary.json", {**SUMMARY, "fidelity": FIDELITY}))
    assert whole.texts["versions"].startswith("torch 2.6.0, ")
    assert whole.fidelity is not None
    assert whole.fidelity["passed"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        *(({key: None}, f"'{key}'") for key in ("seed", "stages", "parameters", "macs", "test_accuracy")),
        ({"test_accuracy": "high"}, "'test_accuracy' is 'high'"),
        ({"parameters": True}, "'parameters' is True"),
        ({"stages": [{"name": "search"}]}, "'name' or 'seconds'"),
        ({"random_test_accuracies": ["a"]}, "something other than numbers"),
        ({"baselines": [{"label": "a"}]}, "'baselines' is not what"),
        ({"baselines_left_out": [{"label": "a"}]}, "'baselines_left_out' is not what"),
        ({"selection_errors": {"edges": 3}}, "'selection_errors'"),
        ({"fidelity": 1}, "'fidelity' is 1"),
        ({"fidelity": {"kendall_tau": 1}}, "'fidelity' is not what"),
        ({"fidelity": {**FIDELITY, "interval": [None, 1]}}, "'fidelity' is not what"),
        ({"fidelity": {**FIDELITY, "regret": "a"}}, "'fidelity' is not what"),
        ({"selection_errors": {**SUMMARY["selection_errors"], "details": [{"cell": 1}]}}, "'selection_errors'"),
        *(
            ({"selection_errors": {**SUMMARY["selection_errors"], "edges": changed}}, "'selection_errors'")
            for changed in (
                {key: value for key, value in ERRORS.items() if key != "images"},
                {**ERRORS, "undecided": "three"},
                {**ERRORS, "high": [1]},
            )
        ),
    ],
)
def test_broken_summary(entries: dict[str, Any], message: str) -> None:
    path = write_json("summary.json", {**SUMMARY, **entries})
    with pytest.raises(ArtifactError, match=message):
        Summary.load(path)


def test_the_table_for_the_terminal_has_a_row_for_every_figure() -> None:
    stages = [{**stage, "resumed": stage["name"] == "train"} for stage in SUMMARY["stages"]]
    rows = dict(row.split("  ", 1) for row in table({**SUMMARY, "stages": stages, "fidelity": None}).splitlines())
    found = {name.strip(): value.strip() for name, value in rows.items()}
    assert found["train (since resumed)"] == "30.2 s"
    assert found["test accuracy"] == "98.89%"
    assert found["random architectures"] == "97.00% (mean of 3)"
    assert found["selection errors, operations"] == "1 of 2 decided"
    shown = table({**SUMMARY, "stages": stages, "fidelity": {**FIDELITY, "passed": False}})
    assert "0.46 (below the threshold)" in shown
    assert "0.12 to 0.70" in shown
