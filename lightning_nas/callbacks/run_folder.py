"""Checks that a run can write to its folders, and that no other run does."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nas.callbacks.checkpoint_io import AtomicCheckpointIO
from lightning_nas.errors import ConfigError
from lightning_nas.tasks.common import output_folder

LOCK = ".lightning_nas.lock"
"""Lock file in every folder that a run writes to; the operating system releases the lock when the process ends."""

COPIES = 6
"""Required free space as a multiple of the task's size: weights and two optimizer states, in the old and the new
checkpoint."""


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


def check_room(folder: Path, size: int) -> None:
    """Check that a folder has free space, by reserving it for a moment.

    Args:
        folder: The folder.
        size: Required free space in bytes.

    Raises:
        ConfigError: There is less free space.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            else:
                file.truncate(size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # this file system cannot reserve space
            return
        raise ConfigError(
            f"{folder} has no room for {size / 2**20:.1f} MiB of checkpoints ({error.strerror}). Free some space, or "
            "choose another folder."
        ) from None


class RunFolder(Callback):
    """Checks before the first step that the results of a run can be saved.

    Every folder for artifacts and checkpoints must be writable and have free space, and is locked while the run lasts.
    Checkpoints are written completely or not at all, see ``AtomicCheckpointIO``. The command line adds this callback to
    every ``fit``.

    Example:
        ```python
        Trainer(callbacks=[RunFolder(), ModelCheckpoint("runs/first/checkpoints")])
        ```
    """

    def __init__(self) -> None:
        self.locks: list[FileLock] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Use ``AtomicCheckpointIO`` unless the user has chosen another class."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lock and check the folders on the main process.

        Raises:
            ConfigError: A folder cannot be used; raised by all processes.
        """
        if getattr(trainer, "fast_dev_run", False):
            return
        folders = self._folders(trainer, pl_module)
        message = self._lock_all(folders, pl_module) if trainer.is_global_zero else ""
        message = trainer.strategy.broadcast(message)
        if message:
            raise ConfigError(message)

    @staticmethod
    def _folders(trainer: Trainer, pl_module: LightningModule) -> list[Path]:
        keepers = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        folders = [Path(c.dirpath) for c in keepers if c.dirpath and "://" not in str(c.dirpath)]
        task: Any = pl_module
        if hasattr(task, "output_dir"):
            folders.append(output_folder(trainer, task.output_dir))
        return folders

    def _lock_all(self, folders: list[Path], pl_module: LightningModule) -> str:
        state = [*pl_module.parameters(), *pl_module.buffers()]
        size = COPIES * sum(t.nbytes for t in state)
        try:
            for folder in dict.fromkeys(f.resolve() for f in folders):
                self.locks.append(lock(folder))
                check_room(folder, size)
        except ConfigError as error:
            return str(error)
        return ""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the folders."""
        while self.locks:
            self.locks.pop().release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the folders."""
        self.teardown(trainer, pl_module, "fit")
