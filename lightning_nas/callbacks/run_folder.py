"""Where a run writes: that it can, and that no other run does."""

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
"""The file that a run holds in every folder that it writes to; the system lets go of it when the process ends."""

COPIES = 6
"""Room that a folder must have, in sizes of the task: weights, two states of an optimizer, old and new checkpoint."""


def lock(folder: Path, name: str = LOCK) -> FileLock:
    """Make a folder this process's own.

    Args:
        folder: It is made if it is not there.
        name: Of the lock's file.

    Returns:
        The lock, to be released.

    Raises:
        ConfigError: Another process has it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / name, thread_local=False)
        held.acquire(blocking=False)
    except Timeout:
        raise ConfigError(
            f"Another run writes to {folder} at this moment. Wait for its end, or name another folder."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The run cannot write to {folder} ({error.strerror or error}). Change its permissions, free space, or "
            "name another folder."
        ) from None
    return held


def check_room(folder: Path, size: int) -> None:
    """Reserve and give back ``size`` bytes of a folder's disk.

    Raises:
        ConfigError: They are not there.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            else:
                file.truncate(size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot reserve
            return
        raise ConfigError(
            f"{folder} has no room for {size / 2**20:.1f} MiB of checkpoints ({error.strerror}). Free space, or name "
            "another folder."
        ) from None


class RunFolder(Callback):
    """Finds out before the first step whether a run's results can be kept.

    Every folder that the run will write to (artifacts, checkpoints) must be writable, have room, and be no other run's
    while this one lasts. Checkpoints are written whole or not at all.
    """

    def __init__(self) -> None:
        self.locks: list[FileLock] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let checkpoints be read and written by this library's own means, unless the user chose others."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the folders on the main process; what is wrong is said by all.

        Raises:
            ConfigError: A folder cannot be used.
        """
        if getattr(trainer, "fast_dev_run", False):
            return
        folders = self._folders(trainer, pl_module)
        message = self._take(folders, pl_module) if trainer.is_global_zero else ""
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

    def _take(self, folders: list[Path], pl_module: LightningModule) -> str:
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
        """Let go of the folders."""
        while self.locks:
            self.locks.pop().release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the folders."""
        self.teardown(trainer, pl_module, "fit")
