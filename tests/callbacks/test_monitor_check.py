"""What is monitored must exist."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_nas.__main__ import main
from lightning_nas.callbacks.monitor_check import MonitorCheck
from lightning_nas.errors import ConfigError
from tests.callbacks.test_run_folder import NO_STEP, NoStep
from tests.data.fake import Recorder, module
from tests.helpers import quiet_trainer


class Logging(Recorder):
    """Says what it logs."""

    metrics_logged = ("train/loss", "search/entropy_*", "val/loss")


def fit(folder: Path, task: Recorder, *callbacks: Any, **options: Any) -> None:
    trainer = quiet_trainer(
        max_epochs=1, enable_checkpointing=True, callbacks=[MonitorCheck(), NoStep(), *callbacks], default_root_dir="."
    )
    trainer.fit(task, module(folder, **options))


@pytest.mark.parametrize("make", [ModelCheckpoint, EarlyStopping])
def test_a_metric_of_a_missing_validation_set_is_refused(make: Any, tmp_path: Path) -> None:
    said = (
        rf"{make.__name__} monitors 'val/loss', but the run has no validation set\. The metrics of this run are "
        r"train/loss, search/entropy_\*\. .*--data\.validation_fraction 0\.1"
    )
    with pytest.raises(ConfigError, match=said):
        fit(tmp_path, Logging(), make(monitor="val/loss"))
    with pytest.raises(AssertionError, match="the training started"):
        fit(tmp_path, Logging(), make(monitor="val/loss"), validation_fraction=0.25)


def test_a_metric_that_nothing_logs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"monitors 'val_loss', which nothing in this run logs\. .*val/loss\. Monitor"
    ):
        fit(tmp_path, Logging(), ModelCheckpoint(monitor="val_loss"), validation_fraction=0.25)


@pytest.mark.parametrize("monitor", ["epoch", "step", "search/entropy_normal", None])
def test_what_exists_may_be_monitored(monitor: str | None, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the training started"):
        fit(tmp_path, Logging(), ModelCheckpoint(monitor=monitor))


def test_a_task_that_does_not_say_what_it_logs_is_not_checked(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the training started"):
        fit(tmp_path, Recorder(), ModelCheckpoint(monitor="mine"))


def test_the_command_line_refuses_such_a_run(tmp_path: Path) -> None:
    from tests.callbacks.test_preemption import STAGES, write

    keeper = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/accuracy"}}
    with pytest.raises(
        SystemExit, match=r"ConfigError: ModelCheckpoint monitors 'val/accuracy', but the run has no val"
    ):
        main(write(tmp_path, STAGES["train"], keeper, NO_STEP))
