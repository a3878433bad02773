"""Calls elsewhere: errors as they were raised, and no process left behind."""

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_nas.errors import ConfigError, DataError, MissingDependencyError, TrainingError
from lightning_nas.evaluation.executors import Processes, RayWorkers, Serial, Threads


def behave(item: Any) -> Any:
    """What an item asks of a worker."""
    if isinstance(item, BaseException):
        raise item
    if item == "missing":
        raise MissingDependencyError("ray", "a test", "ray")
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exit":
        sys.exit(9)
    if item == "leave":
        os._exit(4)
    if item == "sleep":
        time.sleep(600)
    if isinstance(item, Path):
        atexit.register(item.touch)
    return os.getpid(), torch.get_num_threads(), item


def unpicklable(item: Any) -> Any:
    """A result that cannot be sent back."""
    return lambda: item


@pytest.mark.slow
def test_a_worker_stays_until_it_fails(tmp_path: Path) -> None:
    executor = Processes(1)
    first, second = executor.map(behave, list(range(4))), executor.map(behave, [torch.tensor(7), "eight"])
    ((worker, threads),) = {each[:2] for each in first + second}
    assert worker != os.getpid()
    assert threads == 1
    assert [each[2] for each in first + second] == [0, 1, 2, 3, 7, "eight"]
    # an exception that cannot be made from its own arguments, before another one
    with pytest.raises(MissingDependencyError, match="Cannot import ray, which a test needs") as caught:
        executor.map(behave, [1, "missing", DataError("later")])
    assert "in behave" in caught.value.__notes__[0]
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    with pytest.raises(TrainingError, match="A worker process ended without an answer"):
        executor.map(behave, ["die", 2])
    # an idle worker may end by itself, and clean up
    executor.map(behave, [tmp_path / "ended"])
    executor.close()
    assert (tmp_path / "ended").exists()


@pytest.mark.slow
def test_a_failure_costs_one_call() -> None:
    executor = Processes(2, timeout=2)
    items = [0, "die", 1, "exit", 2, "sleep", 3, "leave", DataError("raised"), 4]
    found = executor.attempt(behave, items)
    assert [each[2] for each in found if isinstance(each, tuple)] == [0, 1, 2, 3, 4]
    errors = {str(item): str(each) for item, each in zip(items, found, strict=True) if not isinstance(each, tuple)}
    assert "ended without an answer (signal 9)" in errors["die"]
    assert "sys.exit(9)" in errors["exit"]
    assert "longer than its timeout of 2 seconds" in errors["sleep"]
    assert "ended without an answer (exit code 4)" in errors["leave"]
    assert isinstance(found[8], DataError)
    assert os.getpid() not in {each[0] for each in found if isinstance(each, tuple)}
    again = executor.attempt(behave, [5, 6])
    assert [each[2] for each in again if isinstance(each, tuple)] == [5, 6]
    executor.close()


def test_threads_survive_an_exit() -> None:
    executor = Threads(2)
    found = executor.attempt(behave, [1, "exit", DataError("raised"), 2])
    assert [type(each) for each in found] == [tuple, TrainingError, DataError, tuple]
    executor.close()


SCRIPT = """
import ctypes, os, signal, sys, time
from pathlib import Path

def work(number):
    Path(f"worker{number}").touch()
    if number:
        time.sleep(600)
    signal.signal(signal.SIGTERM, lambda *args: None)
    ctypes.PyDLL(None).sleep(600)  # holds Python's lock

if __name__ == "__main__":
    # tests that a shell has started in the background inherit that the signal is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from lightning_nas.evaluation.executors import Processes
    Processes(2).map(work, [0, 1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process_behind(number: signal.Signals) -> None:
    Path("script.py").write_text(SCRIPT)
    # who reads the end of a pipe knows that all are gone who could write to it
    with subprocess.Popen([sys.executable, "script.py"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            while not (Path("worker0").exists() and Path("worker1").exists()):
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(number)
            output, _ = process.communicate(timeout=100)
        finally:
            process.kill()
    assert output == b""
    assert process.returncode == -number


def test_threads_keep_the_number_of_threads_and_raise_what_was_raised() -> None:
    torch.set_num_threads(2)
    with pytest.raises(DataError, match="as it was raised"):
        Threads(2).map(behave, [1, DataError("as it was raised")])
    assert torch.get_num_threads() == 2


def test_the_first_error_of_several_is_raised() -> None:
    for executor in (Serial(), Threads(2)):
        with pytest.raises(DataError, match="first"):
            executor.map(behave, [1, DataError("first"), ValueError("second")])


def test_wrong_arguments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for executor in (Processes, Threads, RayWorkers):
        with pytest.raises(ConfigError, match="workers is 0"):
            executor(0)
    with pytest.raises(ConfigError, match="gpus is -1"):
        RayWorkers(1, gpus=-1)
    for executor in (Processes(1), Threads(1)):
        with pytest.raises(ConfigError, match=r"cannot be sent to another process.*the executor Serial"):
            executor.map(lambda item: item, [1])
    monkeypatch.setitem(sys.modules, "ray", None)
    for timeout in (0.0, float("nan")):
        with pytest.raises(ConfigError, match="timeout is"):
            Processes(1, timeout=timeout)
    with pytest.raises(MissingDependencyError, match=r"lightning_nas\[ray\]"):
        RayWorkers(1).map(behave, [1])


@pytest.mark.slow
@pytest.mark.parametrize(("function", "item"), [(behave, lambda: 1), (unpicklable, 1)])
def test_what_cannot_be_pickled_is_refused(function: Any, item: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be sent to another process"):
        Processes(1).map(function, [item])
