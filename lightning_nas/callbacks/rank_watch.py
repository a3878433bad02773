"""A run of several processes ends in one line where one of them has died."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.errors import NASError, TrainingError
from lightning_nas.tasks.common import last_good

PERIOD = 0.5
"""Seconds between two looks at the other processes."""

GRACE = 3.0
"""Seconds in which a process that a dead one has left may fail by itself, before it is ended."""


class RankWatch(Callback):
    """Names the process that has died, and the checkpoint to go on from.

    The others would wait for a dead process: for minutes on GPUs, or until Lightning kills them without a word. On CPUs
    they fail with a message about connections. With this callback, the main process watches those that Lightning has
    started on this machine, and those watch the main one. The command line adds it to every ``fit``. Launchers such as
    torchrun watch their processes themselves.

    Example:
        ```python
        Trainer(devices=2, strategy="ddp", callbacks=[RankWatch()])
        ```
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._children: list[Any] = []
        self._parent = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch."""
        launcher: Any = trainer.strategy.launcher
        started = getattr(launcher, "procs", [])
        self._children, self._parent = [], 0
        self._over = threading.Event()
        if started and isinstance(started[0], subprocess.Popen):
            self._children, launcher.procs = list(started), list(started)
            started.clear()  # Lightning's own thread, which has this list, would kill the main process without a word
        elif trainer.world_size > 1 and trainer.local_rank > 0 and "TORCHELASTIC_RUN_ID" not in os.environ:
            self._parent = os.getppid()
        if self._children or self._parent:
            threading.Thread(target=self._watch, args=(trainer, self._over), daemon=True).start()

    def _dead(self, trainer: Trainer) -> str:
        """A sentence about the process that has died; empty if there is none."""
        for rank, process in enumerate(self._children, start=1):
            code = process.poll()
            if code:
                how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                return f"Rank {rank} of {trainer.world_size} (process {process.pid}) ended {how}. "
        if self._parent and os.getppid() != self._parent:
            return f"Rank 0 of {trainer.world_size} (process {self._parent}) ended. "
        return ""

    def _watch(self, trainer: Trainer, over: threading.Event) -> None:
        while not over.wait(PERIOD):
            dead = self._dead(trainer)
            if dead and not over.wait(GRACE):  # this process waits for the dead one
                print(f"lightning-nas: TrainingError: {self._said(dead, trainer)}", file=sys.stderr, flush=True)
                self._kill()
                os._exit(1)

    def _said(self, dead: str, trainer: Trainer) -> str:
        return f"{dead}{last_good(trainer)} Continue from there by --ckpt_path."

    def _kill(self) -> None:
        for process in self._children:
            if process.poll() is None:
                process.kill()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say that a process has died, where this one fails because of it.

        Raises:
            TrainingError: A process has died.
        """
        watching = bool(self._children or self._parent) and not self._over.is_set()
        self._over.set()
        if not watching or isinstance(exception, NASError) or not isinstance(exception, Exception):
            return
        until = time.monotonic() + GRACE  # its end may show a moment after its connections, and kill this one
        while not (dead := self._dead(trainer)) and time.monotonic() < until:
            time.sleep(0.1)
        if dead:
            self._kill()
            raise TrainingError(self._said(dead, trainer)) from exception

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop watching."""
        self._over.set()
