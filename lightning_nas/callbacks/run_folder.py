"""Checks that a run can write to its folders, that no other run does, and that no other run's results are replaced."""

import errno
import os
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nas.callbacks.checkpoint_io import AtomicCheckpointIO
from lightning_nas.errors import ConfigError, NASError
from lightning_nas.files.artifacts import read_json, remove_leftovers, write_json
from lightning_nas.files.locks import lock
from lightning_nas.tasks.common import output_folder

OWNERS = ".lightning_nas.json"
"""File in every folder of artifacts that says which run each of them is of."""

COPIES = 6
"""Required free space as a multiple of the task's size: weights and two optimizer states, in the old and the new
checkpoint."""


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


def owned(folder: Path, run: str) -> list[Path]:
    """The artifacts in a folder that are of a run.

    Args:
        folder: The folder.
        run: Identity of the run.

    Raises:
        ArtifactError: The file that names the owners is damaged.
    """
    owners = _owners(folder)
    return [folder / name for name, owner in owners.items() if owner == run and (folder / name).is_file()]


def _owners(folder: Path) -> dict[str, Any]:
    path = folder / OWNERS
    known = read_json(path, repair="Delete it.").get("files") if path.is_file() else {}
    return known if isinstance(known, dict) else {}


def claim(folder: Path, names: Sequence[str], run: str, resumed: str = "", overwrite: bool = False) -> None:
    """Note that artifacts in a folder are those of a run, unless another run has written such a file there.

    Args:
        folder: The folder, which the caller has locked.
        names: Names of the files that the run will write.
        run: Identity of the run.
        resumed: Identity of the run that is resumed, if it is another one.
        overwrite: Whether the run may replace files of others.

    Raises:
        ArtifactError: The file that names the owners is damaged.
        ConfigError: A file is there, and of another run.
    """
    owners = _owners(folder)
    others = [name for name in names if (folder / name).is_file() and owners.get(name) not in (run, resumed)]
    if others and not overwrite:
        raise ConfigError(
            f"{folder} has {', '.join(others)} of another run, which this run would replace. Name another folder by "
            "--model.output_dir, move these files, resume the run that wrote them by --ckpt_path, or allow it by "
            "--run_folder.overwrite true."
        )
    if names:
        write_json(folder / OWNERS, {"files": {**owners, **dict.fromkeys(names, run)}})


class RunFolder(Callback):
    """Checks before the first step that the results of a run can be saved and replace those of no other run.

    Every folder for artifacts and checkpoints must be writable and have free space, and is locked while the run lasts.
    Temporary files that a killed run has left there are deleted. Artifacts that the folder holds already must be of
    this run, or of the run whose checkpoint it resumes; they may be of any other only if ``overwrite`` is set. Which
    files a task or a callback writes, its attribute ``writes`` says. Checkpoints are written completely or not at all,
    see ``AtomicCheckpointIO``. The command line adds this callback to every ``fit`` under the name ``run_folder``.

    Args:
        overwrite: Whether artifacts of other runs in ``output_dir`` may be replaced.
        run: Identity of the run, for a run that is started again without a checkpoint, as by a pipeline. By default
            every run gets a new one, and a resumed run that of its checkpoint.

    Example:
        ```python
        Trainer(callbacks=[RunFolder(), ModelCheckpoint("runs/first/checkpoints")])
        ```
    """

    def __init__(self, overwrite: bool = False, run: str | None = None) -> None:
        self.overwrite = overwrite
        self.fixed = run
        self.run = run or uuid.uuid4().hex
        self.resumed = self.run
        self.locks: list[FileLock] = []

    def state_dict(self) -> dict[str, Any]:
        """The identity of the run, by which a resumed run knows its own artifacts."""
        return {"run": self.run}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the identity of the run that is resumed, unless one was given."""
        self.resumed = str(state_dict["run"])
        self.run = self.fixed or self.resumed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Use ``AtomicCheckpointIO`` unless the user has chosen another class."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lock and check the folders on the main process.

        Raises:
            ConfigError: A folder cannot be used, or has artifacts of another run; raised by all processes.
        """
        trial = bool(getattr(trainer, "fast_dev_run", False))
        task: Any = pl_module
        outputs = output_folder(trainer, task.output_dir) if hasattr(task, "output_dir") else None
        message = self._check(trainer, pl_module, outputs, trial) if trainer.is_global_zero else ""
        message = trainer.strategy.broadcast(message)
        if message:
            raise ConfigError(message)

    def _check(self, trainer: Trainer, task: LightningModule, outputs: Path | None, trial: bool) -> str:
        keepers = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        folders = [Path(c.dirpath) for c in keepers if c.dirpath and "://" not in str(c.dirpath)]
        folders = [] if trial else folders  # it saves no checkpoints
        state = [*task.parameters(), *task.buffers()]
        size = COPIES * sum(t.nbytes for t in state)
        parts = (task, *trainer.callbacks)  # type: ignore[attr-defined]
        names = [name for part in parts for name in getattr(part, "writes", ())]
        try:
            for folder in dict.fromkeys(f.resolve() for f in (*folders, *([outputs] if outputs else []))):
                self.locks.append(lock(folder))
                remove_leftovers(folder)
                check_room(folder, size)
            if outputs is not None:
                claim(outputs, names, self.run, self.resumed, self.overwrite)
        except NASError as error:
            return str(error)
        return ""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the folders."""
        while self.locks:
            self.locks.pop().release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the folders."""
        self.teardown(trainer, pl_module, "fit")
