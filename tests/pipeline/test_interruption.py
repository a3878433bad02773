"""SIGTERM at every step between the last training and the report."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lightning_nas.__main__ import main
from lightning_nas.cli import lightning
from tests.conftest import ROOT
from tests.pipeline.conftest import parsed
from tests.pipeline.test_run import TIMES, arguments

PACKAGE = str(ROOT / "lightning_nas")
WRITTEN = ("network.py", "network.pt", "README.md")
SPEED = re.compile(rb"^## Speed$.*?(?=^## )", re.DOTALL | re.MULTILINE)
"""The times in a model card."""


class Steps:
    """Counts the functions of this library that are called for the first time from the export on.

    Args:
        stop: Number of the function in which the process gets SIGTERM; none by default.
    """

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.seen: dict[tuple[str, str], None] = {}
        self.begun = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Look at a call."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        self.begun = self.begun or code.co_qualname == "export_checkpoint"
        if not self.begun or (code.co_filename, code.co_qualname) in self.seen:
            return
        self.seen[code.co_filename, code.co_qualname] = None
        if len(self.seen) == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)


def go_on(run_dir: Path, stop: int | None = None) -> Steps:
    """Go on with a pipeline whose stages are done, and count the steps."""
    steps = Steps(stop)
    sys.setprofile(steps)
    try:
        main(["pipeline", *arguments(run_dir, stages__train__random_architectures=0)])
    finally:
        sys.setprofile(None)
    return steps


def results(run_dir: Path) -> dict[str, Any]:
    """What the end of a pipeline writes, without times."""
    summary = json.loads((run_dir / "summary.json").read_text())
    files = {name: SPEED.sub(b"", (run_dir / name).read_bytes()) for name in WRITTEN}
    return {**files, "summary": {key: value for key, value in summary.items() if key not in TIMES}}


@pytest.mark.slow
def test_a_signal_at_any_step_of_the_end_is_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    main(["pipeline", *arguments(run_dir, stages__train__random_architectures=0)])
    expected = results(run_dir)
    monkeypatch.setattr(lightning, "check_config", lambda path: parsed(path.read_text()).clone())  # checked once
    count = len(go_on(run_dir).seen)
    assert count > 60  # of the export, the summary and the report
    assert results(run_dir) == expected
    places = range(1, count + 1, -(-count // 8))
    for stop in places:
        for name in (*WRITTEN, "summary.json", "report.html"):
            (run_dir / name).unlink(missing_ok=True)
        with pytest.raises(SystemExit) as ended:
            go_on(run_dir, stop)
        assert ended.value.code == 143, f"step {stop}"
    print(f"SIGTERM at {len(places)} of {count} steps")
    go_on(run_dir)
    assert results(run_dir) == expected
    assert not list(run_dir.glob("**/*.tmp"))
