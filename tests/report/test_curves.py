"""Curves read from CSV files."""

from pathlib import Path

import pytest

from lightning_nas.errors import ArtifactError
from lightning_nas.report.curves import panel, read_curves
from tests.report.pages import log


def test_resumed_versions_are_one_run(tmp_path: Path) -> None:
    log(tmp_path, 2, "epoch,step,train/loss\n2,12,7\n3,16,6\n")
    log(tmp_path, 10, "epoch,step,train/loss\n4,20,5\n")
    # the last epoch of the first version was lost, and its last row was never finished
    log(tmp_path, 1, "epoch,step,train/loss,extra\n0,4,9,\n1,8,8,\n2,12,100,\n3,1")
    curves = read_curves(tmp_path)
    assert [tuple(point) for point in curves["train/loss"]] == [
        (0, 4, 9),
        (1, 8, 8),
        (2, 12, 7),
        (3, 16, 6),
        (4, 20, 5),
    ]
    assert set(curves) == {"train/loss"}


def test_a_later_test_leaves_the_training_alone(tmp_path: Path) -> None:
    log(tmp_path, 0, "epoch,step,train/loss\n0,4,9\n1,8,8\n")
    log(tmp_path, 1, "epoch,step,test/loss\n0,0,3\n")
    shown = panel(read_curves(tmp_path), "loss")
    assert shown is not None
    assert shown.series == {"train/loss": [(1, 9), (2, 8)]}
    assert (shown.xlabel, shown.log, shown.skipped) == ("epoch", False, 0)


def test_panel_of_steps(tmp_path: Path) -> None:
    log(tmp_path, 0, "epoch,step,a/loss_step,a/loss_epoch,b/loss\n0,1,9,,\n0,2,8,,nan\n0,2,,8.5,0.1\n")
    shown = panel(read_curves(tmp_path), "loss")
    assert shown is not None
    assert shown.series == {"a/loss_epoch": [(2, 8.5)], "b/loss": [(2, 0.1)]}
    assert (shown.xlabel, shown.log, shown.skipped) == ("step", True, 1)
    assert panel(read_curves(tmp_path), "accuracy") is None


def test_file_that_is_no_csv(tmp_path: Path) -> None:
    log(tmp_path, 0, "epoch,step,loss\n" + "9" * 200_000)
    with pytest.raises(ArtifactError, match=r"metrics\.csv is not a CSV file"):
        read_curves(tmp_path)
