"""Lines of progress, and where they go."""

import logging
import time

import pytest

from lightning_nas import terminal
from lightning_nas.terminal import Progress, duration, shown, tell
from tests.helpers import pseudo_terminal


def test_nothing_is_shown_unless_the_command_line_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    tell("a line")
    assert capsys.readouterr() == ("", "")
    with shown(), shown():
        tell("a line")
        logging.getLogger("lightning_nas.data").warning("a warning")
    tell("another one")
    assert capsys.readouterr() == ("a line\n", "a warning\n")


def test_other_processes_of_a_machine_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("LOCAL_RANK", "1")
        with shown():
            tell("a line")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7260, "2 h 1 min")])
def test_times_are_written_in_one_or_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_long_work_is_told_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with shown():
        progress = Progress("cells scored", 8)
        for _ in range(8):
            now += 10
            progress.step()
    assert capsys.readouterr().out.splitlines() == [
        "  cells scored: 3 of 8, about 50 s left",
        "  cells scored: 6 of 8, about 20 s left",
    ]


def test_in_a_terminal_lines_come_more_often_and_above_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with pseudo_terminal() as screen, shown():
        assert terminal.is_terminal()
        from tqdm import tqdm

        bar = tqdm(total=2, desc="bar", ncols=40, file=terminal.sys.stdout, mininterval=0)
        progress = Progress("cells scored")
        for _ in range(2):
            now += 5
            progress.step()
        bar.close()
    lines = screen.lines()
    assert lines[:2] == ["  cells scored: 1", "  cells scored: 2"]
    assert lines[2].startswith("bar:   0%")
    assert len(lines) == 3
