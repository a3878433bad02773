"""A study on Weights & Biases."""

import json
import os
from pathlib import Path

import pytest
import wandb

from lightning_nas.compare.runs import Run, named_class
from lightning_nas.compare.wandb_group import finish_wandb, grouped, log_table, logger_of
from lightning_nas.data import DigitsDataModule
from lightning_nas.spaces import SearchSpace


def run(tmp_path: Path, logger: object) -> Run:
    stage = {
        "config": {},
        "model": {"class_path": "BilevelTask"},
        "data": {"class_path": "DigitsDataModule"},
        "trainer": {"logger": logger},
    }
    config = {"seed_everything": 0, "constraints": {}, "stages": {"fit": stage}}
    return Run("study", "darts", "", 0, config, tmp_path, tmp_path / "run", False)


def test_a_logger_for_weights_and_biases_is_found(tmp_path: Path) -> None:
    wandb = {"class_path": "WandbRunLogger", "init_args": {"project": "digits"}}
    assert logger_of([run(tmp_path, None)]) is None
    assert logger_of([run(tmp_path, {"class_path": "CSVLogger", "init_args": {"save_dir": "."}})]) is None
    assert logger_of([run(tmp_path, False), run(tmp_path, [wandb])]) == wandb
    assert (
        logger_of([run(tmp_path, "lightning.pytorch.loggers.WandbLogger")]) == "lightning.pytorch.loggers.WandbLogger"
    )


def test_runs_are_of_one_group_unless_they_are_of_another() -> None:
    with grouped("study", "darts, seed 0"):
        assert (os.environ["WANDB_RUN_GROUP"], os.environ["WANDB_NAME"]) == ("study", "darts, seed 0")
    assert "WANDB_RUN_GROUP" not in os.environ
    with grouped("mine", "a"), grouped("study", "darts, seed 0"):
        assert os.environ["WANDB_RUN_GROUP"] == "mine"


def test_classes_are_found_by_their_names() -> None:
    assert named_class("NASBench201Space", SearchSpace).__name__ == "NASBench201Space"  # type: ignore[union-attr]
    assert named_class("lightning_nas.data.DigitsDataModule", object) is DigitsDataModule
    assert named_class("lightning_nas.data.DigitsDataModule", SearchSpace) is None
    assert named_class("json.dumps", object) is None
    assert named_class(None, object) is None


@pytest.mark.slow
def test_the_table_is_a_run_of_its_own(tmp_path: Path) -> None:
    config = {"class_path": "WandbRunLogger", "init_args": {"project": "digits", "save_dir": str(tmp_path)}}
    with grouped("study", "darts, seed 0"):
        wandb.init(project="digits", dir=tmp_path)
        finish_wandb()
    log_table(config, "study", [["entry", "seeds"], ["darts", "3"]], [])
    names = [
        path.read_bytes()
        for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime)
    ]
    assert [b"comparison" in each for each in names] == [False, True]
    assert [b"darts, seed 0" in each for each in names] == [True, False]
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/comparison*.json")
    assert json.loads(table.read_text()) == {"columns": ["entry", "seeds"], "data": [["darts", "3"]]}
