"""SIGTERM ends a command with its own exit code, whatever else is made of it."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_nas import __main__ as command_line
from lightning_nas.__main__ import main, resume_line
from lightning_nas.cli.interruption import interruptible
from lightning_nas.errors import CheckpointError, InterruptedTrainingError


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def passes() -> None:
    terminate()
    raise AssertionError("the process went on after SIGTERM")


def is_turned_into_another_error() -> None:
    try:
        terminate()
    except BaseException as error:  # as compiled code does
        raise CheckpointError("the file is damaged") from error


def is_swallowed() -> None:
    with contextlib.suppress(BaseException):
        terminate()


def leaves() -> None:
    try:
        terminate()
    except BaseException:
        raise SystemExit(1) from None


WAYS = [passes, is_turned_into_another_error, is_swallowed, leaves]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_signal_is_not_taken_for_anything_else(way: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedTrainingError, match="SIGTERM stopped the export"), interruptible("the export"):
        way()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("command", ["export", "report", "table", "predict", "test", "fit", "pipeline"])
def test_every_command_ends_with_its_own_code(
    command: str, way: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "run_command", lambda *_: way())
    with pytest.raises(SystemExit) as ended:
        main([command, "--ckpt_path", "some.ckpt"])
    assert ended.value.code == 143
    said = capsys.readouterr().err
    assert f"SIGTERM stopped 'lightning-nas {command}'" in said
    assert said.endswith(f"Go on with: lightning-nas {command} --ckpt_path some.ckpt\n")
    assert "Traceback" not in said


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(CheckpointError), interruptible("the export"):
        raise CheckpointError("the file is damaged")
    with interruptible("the export"):
        pass


def test_a_signal_is_passed_on_to_a_process_that_is_waited_for() -> None:
    numbers: list[int] = []

    def forward(number: int) -> bool:
        numbers.append(number)
        return True

    def wait() -> None:
        terminate()
        numbers.append(0)  # this process has gone on

    with pytest.raises(InterruptedTrainingError), interruptible("the pipeline", forward):
        wait()
    assert numbers == [signal.SIGTERM, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_forked_processes_end_by_the_signal_itself() -> None:
    with interruptible("the export"):
        child = os.fork()
        if child == 0:
            try:
                terminate()
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_in_another_thread_signals_keep_their_effect() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside() -> None:
        with interruptible("the export"):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_command_that_has_no_checkpoint_of_its_own_keeps_the_given_one() -> None:
    given: list[Any] = ["fit", "--config", "a.yaml", "--ckpt_path", "old.ckpt"]
    assert resume_line(given, None).endswith("--ckpt_path old.ckpt")
    assert resume_line(given, Path("new.ckpt")).endswith("--config a.yaml --ckpt_path new.ckpt")
