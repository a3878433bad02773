"""What an interrupted run goes on from."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nas.errors import ConfigError, InterruptedTrainingError


class PreemptionCheckpoint(Callback):
    """Answers SIGTERM with a checkpoint, and writes checkpoints in the middle of long epochs.

    On SIGTERM the running batch is finished and a checkpoint written, by all processes together; the training then ends
    with ``InterruptedTrainingError``, exit code 143 and the command that goes on. A SIGTERM outside of the training's
    epochs ends it at once: what it goes on from has been written before. A run that goes on in the middle of an epoch
    takes the batches that are left, and ends as an uninterrupted one, if its loaders can (those of this library);
    with other loaders Lightning warns that it starts the epoch's data anew.

    The checkpoint replaces the last one of an epoch where that is always named ``last.ckpt``, as in a pipeline;
    otherwise it is ``interrupted.ckpt`` beside those, until the next epoch has one. None is written where the trainer
    keeps no checkpoints.

    Args:
        every_n_batches: Write a checkpoint after so many batches of an epoch, and again; null writes them after epochs
            only, and on SIGTERM.
    """

    def __init__(self, every_n_batches: int | None = None) -> None:
        if every_n_batches is not None and every_n_batches < 1:
            raise ConfigError(f"every_n_batches is {every_n_batches}; it must be at least 1, or null for never.")
        self.every_n_batches = every_n_batches
        self.asked = False
        self.within_epochs = False
        self._own: Path | None = None
        self._of_last_epoch: Path | None = None

    # -- the signal -----------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal over from Lightning, whose own handler talks to the other processes at any moment.

        Lightning restores what was before, too.
        """
        self.asked = False
        self.within_epochs = True
        resumed = None if trainer.ckpt_path is None else Path(trainer.ckpt_path).absolute()
        if self._own is not None and self._own.absolute() != resumed:
            self._own = None  # a checkpoint could name any file to be deleted
        if threading.current_thread() is threading.main_thread():

            def answer(number: int, frame: FrameType | None) -> None:
                launcher: Any = trainer.strategy.launcher
                if launcher is not None and not self.asked:
                    launcher.kill(number)  # the other processes of this machine, which it has started
                self.asked = True
                if not self.within_epochs:
                    raise _stopped("after the last epoch", self.checkpoint(trainer))

            signal.signal(signal.SIGTERM, answer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What follows, such as measuring, can be stopped at once."""
        self.within_epochs = False
        if self._everyone_asked(trainer):
            raise _stopped("after the last epoch", self.checkpoint(trainer))

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Between two epochs: the checkpoint of the last one is there."""
        old, new = self._of_last_epoch, self.checkpoint(trainer)
        if trainer.is_global_zero and old is not None and old.is_file() and new is not None and new != old:
            outdated = new.stat().st_mtime >= old.stat().st_mtime  # not so where not every epoch is saved
            if outdated:
                old.unlink()
        self._of_last_epoch = None
        if self._everyone_asked(trainer):
            # the main process decides for all: not every machine may see its disk
            path = trainer.strategy.broadcast(self.checkpoint(trainer))
            # without one, a batch more: Lightning would skip an epoch whose start was saved
            if path is not None or self._keeper(trainer) is None:
                raise _stopped(f"before epoch {trainer.current_epoch}", path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was saved within the epoch is soon out of date."""
        self._of_last_epoch, self._own = self._own, None

    def state_dict(self) -> dict[str, Any]:
        """The checkpoint within the epoch, which a run that goes on from it replaces."""
        return {"own": None if self._own is None else str(self._own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self._own = None if state_dict["own"] is None else Path(state_dict["own"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if it is time or the run was asked to stop.

        Raises:
            InterruptedTrainingError: It was.
        """
        # what ends an epoch has still to come, and its checkpoint is written then; gathered gradients are in none
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stop = self._everyone_asked(trainer)
        if stop or (self.every_n_batches and (batch_idx + 1) % self.every_n_batches == 0):
            path = self._save(trainer)
            if stop:
                raise _stopped(f"in epoch {trainer.current_epoch}, after batch {batch_idx}", path)

    def _everyone_asked(self, trainer: Trainer) -> bool:
        """Whether any process was asked to stop, as all of them see it."""
        if trainer.world_size == 1:
            return self.asked
        asked = torch.tensor(float(self.asked), device=trainer.strategy.root_device)
        return float(trainer.strategy.reduce(asked, reduce_op="sum")) > 0

    def _keeper(self, trainer: Trainer) -> ModelCheckpoint | None:
        found = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        return next((c for c in found if c.dirpath), None)

    def _last(self, trainer: Trainer) -> Path | None:
        """The checkpoint that every epoch writes anew, if there is such a one."""
        keeper = self._keeper(trainer)
        return Path(str(keeper.dirpath)) / "last.ckpt" if keeper is not None and keeper.filename == "last" else None

    def checkpoint(self, trainer: Trainer) -> Path | None:
        """The newest checkpoint that this run has written."""
        keeper = self._keeper(trainer)
        written = ""
        if keeper is not None:  # one that keeps the best keeps the newest only where it is asked to
            written = keeper.best_model_path if keeper.monitor is None else keeper.last_model_path
        newest = self._own or (Path(written) if written else None)
        return newest if newest is not None and newest.is_file() else None

    def _save(self, trainer: Trainer) -> Path | None:
        keeper = self._keeper(trainer)
        if keeper is None:
            return None
        self._own = self._last(trainer) or Path(str(keeper.dirpath)) / "interrupted.ckpt"
        trainer.save_checkpoint(self._own, weights_only=False)
        return self._own


def _stopped(where: str, path: Path | None) -> InterruptedTrainingError:
    kept = f"Its checkpoint is {path}." if path is not None else "It has no checkpoint."
    return InterruptedTrainingError(f"The training was asked to stop and did, {where}. {kept}", path)
