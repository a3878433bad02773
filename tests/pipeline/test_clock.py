"""The wall-clock time of a run of several parts."""

import os
import time
from pathlib import Path

import pytest

from lightning_nas.errors import ArtifactError
from lightning_nas.pipeline.clock import FILE, RunClock


def test_parts_of_a_run_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    first = RunClock(tmp_path)
    now = 130.0
    first.save()
    now = 5000.0  # the machine was off
    second = RunClock(tmp_path)
    now = 5012.5
    assert second.stop() == 42.5
    now = 6000.0
    assert second.seconds == 42.5
    finished = RunClock(tmp_path, running=False)  # nothing is left to do
    now = 6100.0
    assert finished.stop() == 42.5


def test_of_a_part_that_was_killed_what_its_checkpoints_keep_counts(tmp_path: Path) -> None:
    checkpoints = [tmp_path / name for name in ("old.ckpt", "last.ckpt", "none.ckpt")]
    RunClock(tmp_path).save()
    saved = (tmp_path / FILE).stat().st_mtime
    for path, age in zip(checkpoints[:2], (-50, 70), strict=True):
        path.touch()
        os.utime(path, (saved + age, saved + age))
    again = RunClock(tmp_path, checkpoints)
    assert again.seconds == pytest.approx(70, abs=5)
    again.save()
    os.utime(checkpoints[1], (saved, saved))
    assert RunClock(tmp_path, checkpoints).seconds == pytest.approx(70, abs=5)


@pytest.mark.parametrize("seconds", ["true", '"1"', "-1", "NaN", "null"])
def test_a_damaged_file_is_named(seconds: str, tmp_path: Path) -> None:
    RunClock(tmp_path).save()
    path = tmp_path / FILE
    path.write_text(path.read_text().replace('"seconds": 0.0', f'"seconds": {seconds}'))
    with pytest.raises(ArtifactError, match=r"\.wall_clock\.json is damaged.*Delete it"):
        RunClock(tmp_path)
