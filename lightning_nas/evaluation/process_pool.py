"""Worker processes, each of which can be lost or stopped without the others."""

import ctypes
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from lightning_nas.errors import ConfigError, TrainingError
from lightning_nas.evaluation.worker import Outcome, Worker, failed

POLL = 1.0
"""Seconds between two looks at whether busy processes are alive. The connection of a process that died is closed at
once, unless a process that it has started holds it open."""

GRACE = 5.0
"""Seconds that an idle process has to end by itself. One that is killed leaves semaphores behind, and Python warns."""

_PR_SET_PDEATHSIG = 1


class ProcessPool:
    """Processes that call a function, one item at a time each.

    A process that dies or exceeds the timeout costs the item that it was working on; the next item starts a new
    process. All processes end with this one, however it ends.

    Args:
        workers: Largest number of processes.
        function: The pickled function.
        timeout: Seconds that a call may take; None for any time.
    """

    def __init__(self, workers: int, function: bytes, timeout: float | None) -> None:
        self.workers = workers
        self.function = function
        self.timeout = timeout
        self._context = get_context("spawn")
        self._works = False
        self._processes: list[_Process] = []

    def run(self, items: Sequence[Any]) -> Iterator[Outcome]:
        """Call the function for every item, and yield the outcomes in the order of the items.

        Args:
            items: Arguments of the calls.

        Raises:
            ConfigError: The first processes ended before their first call.
            TrainingError: A later process did.
        """
        waiting = deque(range(len(items)))
        outcomes: dict[int, Outcome] = {}
        for place in range(len(items)):
            while place not in outcomes:
                self._hand_out(waiting, items)
                for process in self._finished():
                    if process.place < 0:
                        raise self._no_start(process)
                    outcomes[process.place] = process.outcome()
                    process.place = -1
            yield outcomes.pop(place)

    def _hand_out(self, waiting: deque[int], items: Sequence[Any]) -> None:
        """Give an item to every idle process, and start processes for the others."""
        self._processes = [each for each in self._processes if each.usable]
        for process in self._processes:
            if process.ready and process.place < 0 and waiting:
                process.send(items[waiting[0]])
                process.place = waiting.popleft()
        starting = sum(not each.ready for each in self._processes)
        while starting < len(waiting) and len(self._processes) < self.workers:
            self._processes.append(_Process(self._context, self.function))
            starting += 1

    def _finished(self) -> "list[_Process]":
        """Wait until a process has something to say, is dead or late; those whose call is over."""
        deadlines = [POLL]
        if self.timeout is not None:
            now = time.monotonic()
            deadlines += [each.begun + self.timeout - now for each in self._processes if each.place >= 0]
        wait([each.connection for each in self._processes], timeout=max(0.0, min(deadlines)))
        over = [each for each in self._processes if each.is_over(self.timeout)]
        self._works = self._works or any(each.ready for each in self._processes)
        return over

    def _no_start(self, process: "_Process") -> ConfigError | TrainingError:
        """The error of a process that ended before its first call."""
        kind = TrainingError if self._works else ConfigError
        return kind(
            f"A worker process ended before its first call ({process.end}). Use fewer workers if memory is short; a "
            'script of your own must start its work under if __name__ == "__main__".'
        )

    def kill(self) -> None:
        """End all processes: idle ones by themselves, busy ones at once."""
        idle = [process for process in self._processes if process.ready and process.place < 0]
        for process in idle:
            process.connection.close()  # which it waits for
        late = time.monotonic() + GRACE
        for process in idle:
            process.process.join(max(0.0, late - time.monotonic()))
        for process in self._processes:
            process.kill()
        self._processes = []


class _Process:
    """One process.

    Attributes:
        connection: Sends items and receives outcomes.
        place: Index of the item that it is working on; -1 for none.
        begun: When it began, in seconds of the monotonic clock.
        ready: Whether it has imported what it needs.
        usable: Whether it can take a further item.
    """

    def __init__(self, context: Any, function: bytes) -> None:
        self.connection, other = context.Pipe()
        # a daemon, so that an exit of this process doesn't wait for it
        self.process = context.Process(target=_serve, args=(other, function, os.getpid()), daemon=True)
        self.process.start()
        other.close()
        self.place = -1
        self.begun = 0.0
        self.ready = False
        self.usable = True
        self._answer: Outcome | None = None

    def send(self, item: Any) -> None:
        """Let it work on an item; if it has just died, its connection tells."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(item)
        self.begun = time.monotonic()

    def is_over(self, timeout: float | None) -> bool:
        """Whether the process has answered, has died, or has exceeded the timeout and is therefore dead."""
        try:
            if self.connection.poll():
                answer = self.connection.recv()
                if not self.ready:
                    self.ready = True
                    return False
                self._answer = answer
                return True
        except (EOFError, OSError):
            self.kill()
        if self.usable and not self.process.is_alive() and not self.connection.poll():
            self.kill()
        if self.usable and self.place >= 0 and timeout is not None and time.monotonic() - self.begun >= timeout:
            self.kill()
            self._answer = failed(TrainingError(f"The evaluation took longer than its timeout of {timeout:g} seconds."))
        return not self.usable

    def outcome(self) -> Outcome:
        """The outcome of the call that is over."""
        answer, self._answer = self._answer, None
        return answer or failed(
            TrainingError(
                f"A worker process ended without an answer ({self.end}): it was killed, perhaps for memory, or ended "
                "itself. Use fewer workers."
            )
        )

    @property
    def end(self) -> str:
        """How it ended."""
        code = self.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End it at once."""
        self.usable = False
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, function: bytes, parent: int) -> None:
    """Answer items until the parent is gone."""
    current_process().daemon = False  # the function may start processes, such as those of a data loader
    _end_with(parent)
    # Ctrl-C reaches all processes of a terminal; the parent ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(function)
    with suppress(Exception, SystemExit):  # the first call raises it again
        worker.load()
    with suppress(EOFError, OSError):
        connection.send(True)
        while True:
            try:
                outcome = worker.call(connection.recv())
            except (pickle.UnpicklingError, AttributeError, ImportError) as error:
                outcome = failed(ConfigError(unpicklable(error)))
            try:
                connection.send(outcome)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                connection.send(failed(ConfigError(unpicklable(error))))


def _end_with(parent: int) -> None:
    """Let this process end with its parent, however that ends.

    On Linux the kernel sees to it: it kills this process when the thread that started it ends. Elsewhere a thread of
    this process does, which has to wait while a call holds Python's lock.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(1)


def unpicklable(error: BaseException) -> str:
    """Say that something cannot be sent to another process.

    Args:
        error: The error of pickling it.
    """
    return (
        f"The function, its arguments or its results cannot be sent to another process: {error}. Use the executor "
        "Serial, or leave out what cannot be pickled, such as lambda functions and open files."
    )
