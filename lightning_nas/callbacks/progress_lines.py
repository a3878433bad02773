"""Progress of a training: a bar in a terminal, and plain lines elsewhere."""

import math
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, Timer, TQDMProgressBar
from lightning_utilities.core.imports import RequirementCache

from lightning_nas.tasks.base import BatchLimit
from lightning_nas.terminal import EVERY, INDENT, duration, is_terminal, tell

WARM_UP = 2
"""Batches before the clock of an estimate starts: the first ones allocate memory and choose kernels."""

MEASURED = 2.0
"""Seconds of training that an estimate is made from."""

SHORT = 10.0
"""Seconds of the rest of a training below which no estimate is told."""

DRAWN = 0.1
"""Seconds between two drawings of a bar."""


def progress_bar() -> ProgressBar:
    """Choose what shows the progress: a bar of rich or else of tqdm in a terminal, and plain lines elsewhere."""
    if not is_terminal():
        return ProgressLines()
    return RichBar() if RequirementCache("rich>=10.2.2") else TQDMBar()


class RichBar(RichProgressBar):
    """Lightning's bar of rich, without the number of a version."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what is shown beside the bar."""
        return _metrics(super().get_metrics(trainer, pl_module))


class TQDMBar(TQDMProgressBar):
    """Lightning's bar of tqdm, drawn a few times per second, which ends its line however the training ends."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0.0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what is shown beside the bar."""
        return _metrics(super().get_metrics(trainer, pl_module))

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Draw the bar if it is due, or at its end."""
        now = time.monotonic()
        if now - self._drawn >= DRAWN or trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args, **kwargs)
            self._drawn = now

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line of every bar before the error is printed."""
        for name in ("val", "train", "test", "predict"):
            with suppress(TypeError):  # there is no such bar
                getattr(self, f"{name}_progress_bar").close()


class ProgressLines(ProgressBar):
    """Says in plain lines how far a training is, for output that goes to a file or a pipe.

    Args:
        seconds: Seconds between two lines, above 0.
    """

    def __init__(self, seconds: float = EVERY[False]) -> None:
        super().__init__()
        self.seconds = seconds
        # EvolveTask sets the total as it does that of a bar: its number of generations is not that of its batches
        self.train_progress_bar = SimpleNamespace(total=None)
        self._enabled = True
        self._said = self._start = 0.0
        self._done = 0

    def disable(self) -> None:
        """Say nothing, as in all processes but the first one."""
        self._enabled = False

    def enable(self) -> None:
        """Say something again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a validation that is no part of a training."""
        if not trainer.training:
            self._begin()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the number of batches of the epoch."""
        self.train_progress_bar.total = trainer.num_training_batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say how far the training is, if it is time to."""
        self._done += 1
        if not self._is_due():
            return
        total = self.train_progress_bar.total
        epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, " if (trainer.max_epochs or 0) > 1 else ""
        metrics = _metrics(self.get_metrics(trainer, pl_module))
        values = "".join(f", {key} {value:.4g}" for key, value in metrics.items() if isinstance(value, int | float))
        left = batches_left(trainer, batch_idx, total)
        rest = "" if not left else f", about {duration((self._said - self._start) / self._done * left)} left"
        tell(f"{INDENT}{epoch}{_count(batch_idx + 1, total)}{values}{rest}")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Say how far the validation is, if it is time to."""
        self._say("validation", batch_idx, trainer.num_val_batches)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Say how far the test is, if it is time to."""
        self._say("test", batch_idx, trainer.num_test_batches)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Say how far the predictions are, if it is time to."""
        self._say("predictions", batch_idx, trainer.num_predict_batches)

    def _begin(self) -> None:
        self._start = self._said = time.monotonic()
        self._done = 0

    def _is_due(self) -> bool:
        now = time.monotonic()
        due = self._enabled and now - self._said >= self.seconds
        self._said = now if due else self._said
        return due

    def _say(self, what: str, batch_idx: int, batches: Any) -> None:
        if self._is_due():
            one = batches[0] if isinstance(batches, list) and len(batches) == 1 else None
            tell(f"{INDENT}{what}, {_count(batch_idx + 1, one)}")


class TimeEstimate(Callback):
    """Says once, after the first batches, how long a training will take at their pace.

    Nothing is said where the number of batches is not known in advance, and where little is left.
    """

    def __init__(self) -> None:
        self._start: float | None = None
        self._batches = 0
        self._told = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew. Where the task itself decides when it is over, there is no estimate."""
        self._start, self._batches = None, 0
        self._told = bool(getattr(pl_module, "ends_by", "")) or not trainer.is_global_zero

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, and say the estimate if it can be made."""
        if self._told or getattr(pl_module, "warming_up", False):  # such epochs are shorter than the others
            return
        now = time.monotonic()
        self._batches += 1
        if self._batches == WARM_UP:
            self._start = now
        if self._start is None or self._batches == WARM_UP or now - self._start < MEASURED:
            return
        self._told = True
        left = batches_left(trainer, batch_idx, trainer.num_training_batches)
        seconds = 0.0 if left is None else (now - self._start) / (self._batches - WARM_UP) * left
        if seconds >= SHORT:
            tell(f"{INDENT}about {duration(seconds)}")


def batches_left(trainer: Trainer, batch_idx: int, total: float | None) -> float | None:
    """Number of batches of a training that are left; None if it is not known.

    Args:
        trainer: The trainer.
        batch_idx: Index of the batch in its epoch that is done.
        total: Number of batches of this epoch.
    """
    epochs = trainer.max_epochs
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    ended = any(isinstance(each, Timer) for each in callbacks)
    ended |= any(isinstance(each, BatchLimit) and each.limit != -1 for each in callbacks)
    if ended or epochs is None or epochs < 1 or trainer.max_steps != -1 or total is None or math.isinf(total):
        return None
    return (epochs - trainer.current_epoch - 1) * trainer.num_training_batches + total - batch_idx - 1


def _metrics(found: dict[str, Any]) -> dict[str, Any]:
    """Metrics without the number of a version, of which every run folder here has one."""
    return {key: value for key, value in found.items() if key != "v_num"}


def _count(done: int, total: float | None) -> str:
    known = total is not None and not math.isinf(total)
    return f"batch {done:,} of {total:,.0f}" if known else f"batch {done:,}"
