"""The runs of a study: what the configuration of each entry becomes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_nas.__main__ import main
from lightning_nas.compare.config import parse
from lightning_nas.compare.runs import Run, runs
from lightning_nas.errors import ConfigError

DIGITS = {"class_path": "DigitsDataModule", "init_args": {"batch_size": 96}}
ENTRIES: dict[str, Any] = {
    "single": {"config": ["search/darts", {"trainer": {"max_epochs": 2}}], "trainer": {"max_epochs": 3}},
    "own_seed": {"config": "search/darts", "model": {"init_args": {"seed": 7}}},
    "chain": {
        "stages": {
            "search": {"config": "search/darts", "data": {"init_args": {"data": "${data}"}}},
            "train": {
                "config": "train/digits",
                "test": True,
                "model": {"init_args": {"architecture": "${run_dir}/${dataset}.json"}},
                "data": "${data}",
            },
        }
    },
    "pipeline": {
        "pipeline": "pipeline/digits_screen",
        "constraints": {"parameters": 3000},
        "stages": {
            "screen": {
                "model": {
                    "init_args": {
                        "strategy": {"init_args": {"initial": 4, "parents": 1, "rounds": 1}},
                        "evaluator": {"init_args": {"images": 4}},
                    }
                }
            },
            "train": {
                "random_architectures": 1,
                "seeds": 1,
                "baselines": [],
                "model": {"init_args": {"channels": 2}},
                "trainer": {"max_epochs": 1},
            },
            "export": {"formats": ["py"]},
        },
    },
}
STUDY: dict[str, Any] = {
    "seeds": [4],
    "data": DIGITS,
    "datasets": {"digits": {}},
    "trainer": {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "callbacks": None},
    "shared": {"model": {"init_args": {"warmup_epochs": 1}}},
    "entries": ENTRIES,
}


def found(tmp_path: Path, **changes: Any) -> dict[str, Run]:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    args = ["--config", str(tmp_path / "study.yaml"), "--output_dir", str(tmp_path / "out")]
    return {run.entry: run for run in runs(parse(args))}


def test_what_all_entries_share_lies_between_files_and_changes(tmp_path: Path) -> None:
    budget = {"budget": {"seconds": 60, "steps": 50}}
    (stage,) = found(tmp_path, **budget)["single"].pipeline().stages
    trainer, arguments = stage.config["trainer"], stage.config["model"]["init_args"]
    assert (trainer["max_epochs"], trainer["max_steps"], trainer["max_time"]) == (3, 50, {"seconds": 60})
    assert (arguments["warmup_epochs"], trainer["accelerator"]) == (1, "cpu")
    assert stage.config["data"]["init_args"]["batch_size"] == 64


def test_the_seed_goes_where_it_is_taken(tmp_path: Path) -> None:
    every = found(tmp_path)
    stages = {name: run.pipeline().stages for name, run in every.items()}
    assert {stage.config["seed_everything"] for each in stages.values() for stage in each} == {4}
    assert stages["single"][0].config["model"]["init_args"]["seed"] == 4
    assert stages["own_seed"][0].config["model"]["init_args"]["seed"] == 7
    search, train = stages["chain"]
    assert search.config["model"]["init_args"]["seed"] == 4
    assert "seed" not in search.config["data"]["init_args"]  # HalvesDataModule has none of its own
    assert (train.config["data"]["init_args"]["seed"], train.test) == (4, True)
    assert train.arguments["architecture"] == str(tmp_path / "out" / "digits" / "chain" / "seed_4" / "digits.json")


def test_a_pipeline_is_its_file_with_changes(tmp_path: Path) -> None:
    run = found(tmp_path)["pipeline"]
    assert run.final
    stages = {stage.name: stage for stage in run.pipeline().stages}
    assert list(stages) == ["screen", "train", "random_0"]
    assert stages["screen"].arguments["strategy"]["init_args"]["initial"] == 4
    assert stages["train"].config["data"]["init_args"]["batch_size"] == 96
    assert stages["train"].config["trainer"]["enable_progress_bar"] is False


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"pipeline": "search/darts"}, "is no pipeline"),
        ({"pipeline": "pipeline/digits", "stage": {}}, "it has ['stage']"),
        ({"stages": {"search": "search/darts"}, "model": {}}, "is no key of a chain"),
        ({"stages": {"search": "search/nothing"}}, "neither a file nor"),
    ],
)
def test_entries_that_cannot_run_are_refused(entry: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        found(tmp_path, entries={"wrong": entry})
    assert said in str(raised.value)


@pytest.mark.slow
def test_a_pipeline_is_judged_by_its_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = {"name": "test_accuracy", "scale": 100, "unit": "%"}
    found(tmp_path, entries={"pipeline": ENTRIES["pipeline"]}, metric=metric, columns=["parameters"])
    main(["compare", "--config", "study.yaml", "--output_dir", "out", "--trainer.limit_train_batches", "1"])
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["entries"]
    summary = json.loads(Path("out", "digits", "pipeline", "seed_4", "summary.json").read_text())
    assert (row["mean"], row["parameters"]) == (pytest.approx(100 * summary["test_accuracy"]), summary["parameters"])
