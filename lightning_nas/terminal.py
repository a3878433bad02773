"""What people see while a command works: lines of progress, through the log of this library.

In Python the lines are ordinary records of level INFO, which nothing shows unless ``logging`` is told to. The command
line shows them by ``shown``: in their order, above a progress bar, and warnings on the standard error.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = {True: 5.0, False: 30.0}
"""Seconds between two lines about the same work, in a terminal and elsewhere."""

INDENT = "  "
"""What a line about the present stage begins with."""

_log = logging.getLogger("lightning_nas")


class _Lines(logging.Handler):
    """Writes to what is the output of the process at that time, and does not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; an output that is closed raises its error, as it does in ``print``."""
        output = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        bars = sys.modules.get("tqdm")
        if bars is None:
            print(self.format(record), file=output)
        else:
            bars.tqdm.write(self.format(record), file=output)
        output.flush()


@contextmanager
def shown() -> Iterator[None]:
    """Show the lines of this library while the body runs.

    Of the processes of a distributed training, the first one of every machine speaks.
    """
    if any(isinstance(each, _Lines) for each in _log.handlers) or os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    handler, level = _Lines(), _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)


def tell(text: str) -> None:
    """Say something about what goes on.

    Args:
        text: One or more lines.
    """
    _log.info(text)


def is_terminal() -> bool:
    """Whether the output of the process is a terminal."""
    return bool(sys.stdout.isatty())


def duration(seconds: float) -> str:
    """Write a time in one or two units, such as ``40 s`` or ``3 min 20 s``.

    Args:
        seconds: The time, at least 0.
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


class Progress:
    """Says now and then how far a long work is, and how long the rest takes at the same pace.

    Work that is over before a line is due is not mentioned.

    Args:
        what: What is worked on, such as ``selection errors``.
        total: Number of steps; None if it is not known.

    Example:
        ```python
        progress = Progress("scored architectures", len(architectures))
        for architecture in architectures:
            score(architecture)
            progress.step()
        ```
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._start = self._said = time.monotonic()

    def step(self) -> None:
        """Count a step that is done."""
        self.reach(self.done + 1, self.total)

    def reach(self, done: int, total: int | None) -> None:
        """Note how far the work is.

        Args:
            done: Number of steps that are done.
            total: Number of all steps; None if it is not known.
        """
        self.done, self.total = done, total
        now = time.monotonic()
        if now - self._said < EVERY[is_terminal()] or self.done in (0, self.total):
            return
        self._said = now
        if self.total is None:
            tell(f"{INDENT}{self.what}: {self.done:,}")
            return
        left = (now - self._start) / self.done * (self.total - self.done)
        tell(f"{INDENT}{self.what}: {self.done:,} of {self.total:,}, about {duration(left)} left")
