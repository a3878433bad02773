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


@contextmanager
def once(log: logging.Logger) -> Iterator[None]:
    """Let a log pass every message only the first time, as all stages have the same seed.

    Args:
        log: The log.
    """
    passed: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        said = record.getMessage()
        new = said not in passed
        passed.add(said)
        return new

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)
