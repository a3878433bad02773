"""Checkpoints from which a run that was stopped can be resumed."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nas.checks import at_least
from lightning_nas.errors import InterruptedTrainingError
from lightning_nas.tasks.common import INTERRUPTED


class PreemptionCheckpoint(Callback):
    """Saves a checkpoint on SIGTERM, and optionally within long epochs.

    On SIGTERM, all processes together finish the current batch and save a checkpoint. Training then ends with
    ``InterruptedTrainingError``: the exit code is 143, and the command line prints the command that resumes the run. A
    SIGTERM after the last epoch, for example during a final measurement, ends the run at once, because its last
    checkpoint already exists. A run that is resumed within an epoch trains on the remaining batches and ends in exactly
    the same state as an uninterrupted one, if its data loaders support that (those of this library do); with other
    loaders, Lightning warns that it starts the data of the epoch again.

    If the run has a ``ModelCheckpoint`` whose file name is always ``last.ckpt``, as in a pipeline, the checkpoint
    replaces that file. Otherwise it is ``interrupted.ckpt`` in the same folder, and is deleted when the next epoch has
    saved its own checkpoint. A run without ``ModelCheckpoint`` saves none.

    The command line adds this callback to every ``fit`` under the name ``preemption``.

    Args:
        every_n_batches: Also save a checkpoint whenever this number of batches of an epoch is finished. By default,
            checkpoints within an epoch are saved on SIGTERM only.

    Raises:
        ConfigError: ``every_n_batches`` is not a positive integer.

    Example:
        ```bash
        lightning-nas fit --config search/darts --preemption.every_n_batches 100
        ```
    """

    def __init__(self, every_n_batches: int | None = None) -> None:
        at_least(1, every_n_batches=every_n_batches)
        self.every_n_batches = every_n_batches
        self.requested = False
        self.within_epochs = False
        self._own: Path | None = None
        self._of_last_epoch: Path | None = None

    # -- the signal ---------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handler of SIGTERM, which communicates with other processes at arbitrary times.

        Lightning restores the previous handlers at the end, including those before its own.
        """
        self.requested = False
        self.within_epochs = True
        resumed = None if trainer.ckpt_path is None else Path(trainer.ckpt_path).absolute()
        if self._own is not None and self._own.absolute() != resumed:
            self._own = None  # otherwise a checkpoint could name any file for deletion
        if threading.current_thread() is threading.main_thread():

            def handle(number: int, frame: FrameType | None) -> None:
                launcher: Any = trainer.strategy.launcher
                if launcher is not None and not self.requested:
                    launcher.kill(number)  # passes the signal on to the processes that it has started on this machine
                self.requested = True
                if not self.within_epochs:
                    raise _stopped("after the last epoch", self.checkpoint(trainer))

            signal.signal(signal.SIGTERM, handle)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on, a signal stops the run at once.

        Raises:
            InterruptedTrainingError: A signal arrived in the last batch.
        """
        self.within_epochs = False
        if self._requested_anywhere(trainer):
            raise _stopped("after the last epoch", self.checkpoint(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop a run in which something has swallowed the error that the signal raised.

        Raises:
            InterruptedTrainingError: A signal arrived after the last epoch.
        """
        if stage == "fit" and self.requested and not self.within_epochs:
            raise _stopped("after the last epoch", self.checkpoint(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop a run in which something has turned that error into one of its own.

        Raises:
            InterruptedTrainingError: A signal arrived after the last epoch.
        """
        if self.requested and not self.within_epochs and not isinstance(exception, InterruptedTrainingError):
            raise _stopped("after the last epoch", self.checkpoint(trainer)) from exception

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs, where the checkpoint of the last one exists, and delete an outdated checkpoint.

        Raises:
            InterruptedTrainingError: A signal arrived at the end of the last epoch.
        """
        old, new = self._of_last_epoch, self.checkpoint(trainer)
        if trainer.is_global_zero and old is not None and old.is_file() and new is not None and new != old:
            outdated = new.stat().st_mtime >= old.stat().st_mtime  # false if not every epoch saves a checkpoint
            if outdated:
                old.unlink()
        self._of_last_epoch = None
        if self._requested_anywhere(trainer):
            # the main process decides for all, because other machines may not see its disk
            path = trainer.strategy.broadcast(self.checkpoint(trainer))
            # without a checkpoint, train one more batch: Lightning would skip an epoch that was saved at its start
            if path is not None or self._keeper(trainer) is None:
                raise _stopped(f"before epoch {trainer.current_epoch}", path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the checkpoint within this epoch, which will soon be outdated."""
        self._of_last_epoch, self._own = self._own, None

    def state_dict(self) -> dict[str, Any]:
        """Save the path of the checkpoint within the epoch, which a resumed run replaces."""
        return {"own": None if self._own is None else str(self._own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore that path."""
        self._own = None if state_dict["own"] is None else Path(state_dict["own"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save a checkpoint if it is due or a signal has arrived.

        Raises:
            InterruptedTrainingError: A signal has arrived.
        """
        # after the last batch, the end of the epoch is still to come and saves its own checkpoint; and accumulated
        # gradients are not part of a checkpoint
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stop = self._requested_anywhere(trainer)
        if stop or (self.every_n_batches and (batch_idx + 1) % self.every_n_batches == 0):
            path = self._save(trainer)
            if stop:
                raise _stopped(f"in epoch {trainer.current_epoch}, after batch {batch_idx}", path)

    def _requested_anywhere(self, trainer: Trainer) -> bool:
        """Whether any process has received a signal; all processes get the same answer."""
        if trainer.world_size == 1:
            return self.requested
        requested = torch.tensor(float(self.requested), device=trainer.strategy.root_device)
        return float(trainer.strategy.reduce(requested, reduce_op="sum")) > 0

    def _keeper(self, trainer: Trainer) -> ModelCheckpoint | None:
        found = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        return next((c for c in found if c.dirpath), None)

    def _last(self, trainer: Trainer) -> Path | None:
        """The checkpoint that every epoch replaces, if there is one."""
        keeper = self._keeper(trainer)
        return Path(str(keeper.dirpath)) / "last.ckpt" if keeper is not None and keeper.filename == "last" else None

    def checkpoint(self, trainer: Trainer) -> Path | None:
        """Return the newest checkpoint that this run has saved, or None."""
        keeper = self._keeper(trainer)
        written = ""
        if keeper is not None:  # with a monitored metric, the best model is not the newest one
            written = keeper.best_model_path if keeper.monitor is None else keeper.last_model_path
        newest = self._own or (Path(written) if written else None)
        return newest if newest is not None and newest.is_file() else None

    def _save(self, trainer: Trainer) -> Path | None:
        keeper = self._keeper(trainer)
        if keeper is None:
            return None
        self._own = self._last(trainer) or Path(str(keeper.dirpath)) / INTERRUPTED
        trainer.save_checkpoint(self._own, weights_only=False)
        return self._own


def _stopped(where: str, path: Path | None) -> InterruptedTrainingError:
    saved = f"Its checkpoint is {path}." if path is not None else "It has no checkpoint."
    return InterruptedTrainingError(f"SIGTERM stopped the training {where}. {saved}", path)
