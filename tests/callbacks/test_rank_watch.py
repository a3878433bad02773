"""A dead process ends a run in one line that names it and the checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from lightning_nas.callbacks.rank_watch import RankWatch
from lightning_nas.errors import TrainingError
from tests.ddp.test_launchers import children, environment
from tests.tiny import tiny


def watching(*codes: int) -> tuple[RankWatch, Any]:
    """A watch over processes that end with some exit codes, and their trainer."""
    made = [subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({code})"]) for code in codes]
    for process in made:
        process.wait()
    launcher = SimpleNamespace(procs=made)
    strategy = SimpleNamespace(launcher=launcher)
    trainer: Any = SimpleNamespace(strategy=strategy, world_size=len(codes) + 1, local_rank=0, checkpoint_callbacks=[])
    watch: Any = RankWatch()
    watch.on_fit_start(trainer, None)
    return watch, trainer


def test_the_process_that_has_died_is_named() -> None:
    watch, trainer = watching(0, 3)
    with pytest.raises(TrainingError, match=r"^Rank 2 of 3 \(process \d+\) ended with exit code 3\. There is no"):
        watch.on_exception(trainer, None, RuntimeError("Connection closed by peer"))  # type: ignore[arg-type]


def test_an_error_of_the_run_itself_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_nas.callbacks.rank_watch.GRACE", 0.0)
    watch, trainer = watching(0)
    watch.on_exception(trainer, None, RuntimeError("not enough memory"))  # type: ignore[arg-type]
    watch, trainer = watching(3)
    watch.on_exception(trainer, None, TrainingError("the loss is not finite"))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_in_one_line(rank: int, tmp_path: Path) -> None:
    config = tiny("search/darts.yaml", tmp_path)
    keep = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(tmp_path / "kept"), "filename": "last"}}
    config["trainer"] |= {"devices": 2, "strategy": "ddp", "max_epochs": 100_000, "logger": False, "callbacks": [keep]}
    config["model"]["init_args"]["output_dir"] = str(tmp_path)
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "lightning_nas", "fit", "--config", "search.yaml"]
    run = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        until = time.monotonic() + 200
        while not (tmp_path / "kept" / "last.ckpt").is_file() and run.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        (other,) = children(run.pid)
        os.kill((run.pid, other)[rank], signal.SIGKILL)
        said = run.communicate(timeout=60)[1]  # until the other process ends, too, which writes to the same pipe
    finally:
        run.kill()
    assert run.returncode == (-signal.SIGKILL if rank == 0 else 1)
    assert "Traceback" not in said
    (line,) = [each for each in said.splitlines() if each.startswith("lightning-nas: ")]
    assert line.startswith(f"lightning-nas: TrainingError: Rank {rank} of 2 ")
    assert f"The last good checkpoint is {tmp_path}/kept/last.ckpt." in line
