"""Locks of the folders that are written to, so that two processes don't write to one at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import remove_leftovers

LOCK = ".lightning_nas.lock"
"""Lock file in every folder that is written to; the operating system releases the lock when the process ends."""


def lock(folder: Path, name: str = LOCK) -> FileLock:
    """Lock a folder for this process.

    Args:
        folder: The folder, which is created if it does not exist.
        name: Name of the lock file.

    Returns:
        The lock, which the caller must release.

    Raises:
        ConfigError: Another process has locked the folder, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / name, thread_local=False)
        held.acquire(blocking=False)
    except Timeout:
        raise ConfigError(
            f"Another run is writing to {folder}. Wait until it has ended, or choose another folder."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The run cannot write to {folder} ({error.strerror or error}). Change its permissions, free some space, "
            "or choose another folder."
        ) from None
    return held


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder while the body writes to it, and delete what a killed process has left there of its writes.

    Args:
        folder: The folder, which is created if it does not exist.

    Raises:
        ConfigError: Another process has locked the folder, or it cannot be written to.
    """
    held = lock(folder)
    try:
        remove_leftovers(folder)
        yield
    finally:
        held.release()
