"""A study from its YAML file to its tables: queries on a small table of made-up results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_nas.__main__ import main
from lightning_nas.architecture import Architecture
from lightning_nas.compare.config import parse
from lightning_nas.compare.execution import check
from lightning_nas.compare.main import Study
from lightning_nas.errors import ConfigError, InterruptedTrainingError, TrainingError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.synthetic import write_nasbench201
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
TABLE = {"class_path": "NASBench201Table", "init_args": {"path": "${arguments.table}"}}
STUDY: dict[str, Any] = {
    "seeds": 2,
    "arguments": {"table": "table.npz"},
    "budget": {"queries": 6},
    "baseline": "random",
    "truth": {"table": TABLE, "column": "cifar10_test_200", "seen": "cifar10_val_200"},
    "columns": ["reported.accuracy"],
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    "shared": {
        "model": {
            "init_args": {
                "evaluator": {"init_args": {"table": TABLE}},
                "final_evaluator": {"init_args": {"table": TABLE}},
                "generation_size": 3,
            }
        }
    },
    "entries": {
        "random": str(CONFIGS / "evolve" / "random_search.yaml"),
        "local": {"config": str(CONFIGS / "evolve" / "local_search.yaml")},
    },
}


class Failing(TableLookup):
    """A table that cannot be read any more."""

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        raise TrainingError("The table is on fire.")


class Stopped(TableLookup):
    """A table that is read when SIGTERM arrives."""

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        raise InterruptedTrainingError("SIGTERM stopped the study.")


def study(folder: Path, *args: str, **changes: Any) -> list[str]:
    write_nasbench201(folder / "table.npz")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return ["--config", str(folder / "tiny.yaml"), "--output_dir", str(folder / "out"), *args]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    main(["compare", *study(folder, "--table", str(folder / "table.npz"))])
    return folder


def test_the_results_are_those_of_the_runs(finished: Path) -> None:
    content = json.loads((finished / "out" / "compare.json").read_text())
    table = NASBench201Table(str(finished / "table.npz"))
    true, seen = table.column("cifar10_test_200"), table.column("cifar10_val_200")
    cells = {table.space.text(table.architecture(row)): row for row in range(len(table))}
    assert [(each["entry"], each["seed"]) for each in content["results"]] == [
        *(("random", 0), ("local", 0), ("random", 1), ("local", 1)),
    ]
    for each in content["results"]:
        row = cells[each["architecture"]]
        assert each["value"] == pytest.approx(float(true[row]))
        assert each["rank"] == 1 + (true > true[row]).sum()
        assert each["seen_rank"] == 1 + (seen > seen[row]).sum()
        assert each["reported.accuracy"] == pytest.approx(each["value"] / 100)
        assert each["curve"][-1] == pytest.approx(each["value"])
        assert len(each["curve"]) == each["queries"] == 6
        folder = finished / "out" / each["entry"] / f"seed_{each['seed']}" / "fit" / "version_0"
        history = json.loads((folder / "history.json").read_text())
        rows = [cells[query["architecture"]] for query in history["history"]]
        assert row == max(rows, key=lambda i: seen[i])
        assert each["found"] == int(int(seen.argmax()) in rows)
    random, local = content["entries"]
    assert random["mean"] == pytest.approx(sum(e["value"] for e in content["results"][::2]) / 2)
    assert local["difference"] == pytest.approx(local["mean"] - random["mean"])
    assert (random["queries"], local["pairs"], local["p"]) == (6, 2, None)
    assert (random["distinct"], local["distinct"]) == (2, 2)
    assert random["censored"] == 2 - sum(each["found"] for each in content["results"][::2])
    # the seeds of the study are those of the strategies
    assert len({each["architecture"] for each in content["results"]}) > 2
    names = {path.name for path in (finished / "out").iterdir() if path.is_file() and not path.name.startswith(".")}
    assert {"table.txt", "table.csv", "table.md", "table.tex", "runs.csv", "compare.json"} <= names


def test_a_limit_reaches_all_runs(finished: Path) -> None:
    given = study(finished, "--table", str(finished / "table.npz"), "--limit", "cifar10_params=q0.5")
    opened = Study.open(parse(given))
    bound = float(np.quantile(NASBench201Table(str(finished / "table.npz")).column("cifar10_params"), 0.5))
    for run in opened.runs:
        (stage,) = run.pipeline().stages
        assert stage.config["model"]["init_args"]["constraints"] == {"cifar10_params": bound}
    (judged,) = opened.truths.values()
    assert judged is not None
    assert judged.settings.constraints == {"cifar10_params": bound}


def test_finished_runs_are_not_repeated(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_nas.cli.lightning.run", None)
    stamps = {path: path.stat().st_mtime_ns for path in (finished / "out").glob("**/done.json")}
    main(["compare", *study(finished, "--table", str(finished / "table.npz"))])
    assert {path: path.stat().st_mtime_ns for path in (finished / "out").glob("**/done.json")} == stamps
    out = capsys.readouterr().out
    assert "4 runs, 4 of them finished before" in out
    line = json.loads(out.splitlines()[-1])
    assert (line["runs"], line["missing"], line["metric"]) == (4, 0, "cifar10_test_200")


def test_another_configuration_of_finished_runs_is_refused(finished: Path) -> None:
    with pytest.raises(SystemExit, match=r"random, seed 0: .* is of a run with another configuration"):
        main(["compare", *study(finished, "--table", str(finished / "table.npz"), "--budget.queries", "5")])


def test_only_runs_that_are_not_finished_are_left(finished: Path) -> None:
    done = finished / "out" / "local" / "seed_1" / "fit" / "done.json"
    kept = done.read_bytes()
    done.unlink()
    try:
        opened = Study.open(parse(study(finished, "--table", str(finished / "table.npz"))))
        assert [str(run) for run in check(opened.runs)] == ["local, seed 1"]
        assert len(opened.collect()) == 3
    finally:
        done.write_bytes(kept)


def test_wrong_entries_are_refused_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"local, seed 0: .*bugdet"):
        main(["compare", *study(tmp_path, "--entries.local.model.init_args.bugdet", "5")])
    assert not list(tmp_path.glob("out/**/done.json"))
    with pytest.raises(SystemExit, match=r"nothing\.yaml is neither a file nor"):
        main(["compare", *study(tmp_path, "--entries.local.config", "nothing.yaml")])
    with pytest.raises(SystemExit, match="The executor is Threads, whose runs would share random numbers"):
        main(["compare", *study(tmp_path, "--executor", "Threads")])
    with pytest.raises(SystemExit, match="missing.npz does not exist"):
        main(["compare", *study(tmp_path, "--table", "missing.npz")])


def test_a_run_that_fails_costs_no_other_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing = {"class_path": "tests.compare.test_main.Failing", "init_args": {"table": TABLE}}
    entry = {**STUDY["entries"]["local"], "model": {"init_args": {"evaluator": failing, "max_failures": 0}}}
    changes = {"seeds": 1, "entries": {**STUDY["entries"], "local": entry}, "columns": []}
    with pytest.raises(SystemExit, match=r"1 of 2 runs failed, and are missing .* local, seed 0: .*table is on fire"):
        main(["compare", *study(tmp_path, **changes)])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["runs"], line["missing"]) == (1, 1)
    assert "on fire" in (tmp_path / "out" / "local" / "seed_0.log").read_text()


def test_a_study_that_is_asked_to_stop_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = {"class_path": "tests.compare.test_main.Stopped", "init_args": {"table": TABLE}}
    entry = {**STUDY["entries"]["local"], "model": {"init_args": {"evaluator": stopped}}}
    with pytest.raises(SystemExit) as ended:
        main(["compare", *study(tmp_path, seeds=1, entries={**STUDY["entries"], "local": entry}, columns=[])])
    assert ended.value.code == 143
    assert f"Go on with: lightning-nas compare --config {tmp_path / 'tiny.yaml'}" in capsys.readouterr().err
    assert [path.parts[-4] for path in (tmp_path / "out").glob("**/done.json")] == ["random"]


@pytest.mark.slow
def test_processes_find_the_same(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = study(finished, "--table", str(finished / "table.npz"), "--workers", "2")
    args[args.index("--output_dir") + 1] = "both"
    main(["compare", *args])
    kept = [json.loads((folder / "compare.json").read_text())["results"] for folder in (Path("both"), finished / "out")]
    for result in kept[0] + kept[1]:
        del result["seconds"]
    assert kept[0] == kept[1]


def test_the_stages_of_all_runs_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", *study(tmp_path, "--print_config", "--seeds", "[4]")])
    found = yaml.safe_load(capsys.readouterr().out)
    assert list(found) == ["random, seed 4", "local, seed 4"]
    fit = found["local, seed 4"]["fit"]
    assert (fit["seed_everything"], fit["model"]["init_args"]["seed"], fit["model"]["init_args"]["budget"]) == (4, 4, 6)
    assert not (tmp_path / "out" / "local").exists()


def test_a_study_without_a_result_to_judge_by_names_what_there_is(finished: Path) -> None:
    opened = Study.open(
        parse(study(finished, "--table", str(finished / "table.npz"), "--truth", "null", "--metric", "x"))
    )
    with pytest.raises(ConfigError, match=r"has no metric 'x'; it has .*best/accuracy.*reported\.accuracy"):
        opened.collect()
    opened = Study.open(parse(study(finished, "--table", str(finished / "table.npz"), "--columns", "[queries, macs]")))
    with pytest.raises(ConfigError, match="No run has macs, which columns names"):
        opened.collect()
