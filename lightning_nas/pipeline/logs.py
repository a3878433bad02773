"""Where what the stages of a pipeline print and log goes."""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write what is printed, and what Lightning logs, to the end of a file.

    Args:
        path: The file.
    """
    with path.open("a") as file, ExitStack() as stack:
        stack.enter_context(redirect_stdout(file))
        stack.enter_context(redirect_stderr(file))
        for name in ("lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler):
                    stack.callback(handler.setStream, handler.stream)
                    handler.setStream(file)
        yield


def finish_wandb() -> None:
    """End the run of this process, if there is one, and forget group and name, which wandb reads once per process."""
    wandb: Any = sys.modules.get("wandb")
    if wandb is not None:
        wandb.finish()
        wandb.teardown()


REPEATING = ("lightning.fabric.utilities.seed", "lightning.pytorch.utilities.rank_zero")
"""Logs of Lightning in which every stage says the same: its seed, and the devices of the machine."""

ROUTINE = ("Restoring states from the checkpoint", "Restored all states", "Loaded model weights from the checkpoint")
"""How messages begin by which Lightning says what a pipeline does with every stage."""


@contextmanager
def quiet_repeats() -> Iterator[None]:
    """Let Lightning say the same only once, as it does for every stage; warnings and errors pass."""
    passed: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if record.levelno >= logging.WARNING:
            return True
        new = said not in passed and not said.startswith(ROUTINE)
        passed.add(said)
        return new

    with ExitStack() as stack:
        for log in map(logging.getLogger, REPEATING):
            log.addFilter(is_new)
            stack.callback(log.removeFilter, is_new)
        yield
