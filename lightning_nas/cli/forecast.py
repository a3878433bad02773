"""``lightning-nas forecast``: time and memory of a training, from a few of its own steps."""

import gc
import json
import math
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader, rank_zero_only

from lightning_nas.cli.lightning import NASCLI, run
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.memory import peak_memory

WARM_UP = 2
"""Steps before the clock starts: the first ones allocate memory and choose kernels."""

STEPS, SECONDS = 2, 0.5
"""Steps and seconds that the clock runs for at least, within the first epoch."""

MARGIN = 0.9
"""Fraction of the available memory that a batch may fill: fragments and other programs need the rest."""

SIZES = ("batch_size", "images_per_class")
"""Names of the batch size in data modules."""

# the user's steps run, but nothing is written, and no service is contacted
_OVERRIDES = (
    "--trainer.logger=false",
    "--trainer.callbacks=null",
    "--trainer.profiler=null",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=0",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.fast_dev_run=false",
    "--ckpt_path=null",
)


class _EnoughError(Exception):
    """Leaves ``Trainer.fit`` before an epoch ends, because tasks write their artifacts there."""


@dataclass
class Measurement:
    """A few measured steps.

    Attributes:
        device: Device of the steps.
        batch: Images per process and batch, in every half.
        images: Training images that a process can draw a batch from.
        size: Name and value of the batch size in the data module; None if it has none of the known names.
        seconds: Seconds per step, including the reading of its batch.
        steps: Batches per epoch and process.
        epochs: Epochs of the whole training.
        peak: Peak memory during the steps in bytes: of tensors on CUDA, otherwise of the process.
        available: Memory that the process could use, in bytes.
    """

    device: str
    batch: int
    images: int
    size: tuple[str, int] | None
    seconds: float
    steps: int
    epochs: int
    peak: int
    available: int


class Stopwatch(Callback):
    """Times a few steps and ends the fit.

    Args:
        resize: Factor that the batch size is multiplied by.
    """

    def __init__(self, resize: float = 1.0) -> None:
        self.resize = resize
        self.size: tuple[str, int] | None = None
        self.measured: Measurement | None = None
        self._start = 0.0
        self._warm_up = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the batch size, and leave out a warm-up of the alphas."""
        data: Any = getattr(trainer, "datamodule", None)
        name = next((n for n in SIZES if isinstance(getattr(data, n, None), int)), None)
        if name is not None:
            self.size = name, max(1, int(getattr(data, name) * self.resize))
            setattr(data, *self.size)
        task: Any = pl_module
        if getattr(task, "warmup_epochs", 0):
            task.warmup_epochs = 0  # epochs without updates of the alphas are shorter than the others

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock at once if the epoch is too short for a warm-up.

        Raises:
            ConfigError: The length of the training is not known.
        """
        if trainer.max_epochs is None or trainer.max_epochs < 0 or trainer.num_training_batches == math.inf:
            raise ConfigError(
                f"A forecast needs a training of known length; trainer.max_epochs is {trainer.max_epochs} and an epoch "
                f"has {trainer.num_training_batches} batches. Set --trainer.max_epochs and limit_train_batches."
            )
        self._warm_up = min(WARM_UP, int(trainer.num_training_batches) - 1)
        if not self._warm_up:
            self._begin(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock after the warm-up, and stop it after enough steps.

        Raises:
            _EnoughError: Enough steps were measured.
        """
        done = batch_idx + 1 - self._warm_up
        if done == 0:
            self._begin(trainer)
        elif done > 0:
            _synchronize(trainer)
            seconds = time.perf_counter() - self._start
            if (done >= STEPS and seconds >= SECONDS) or trainer.is_last_batch:
                self._finish(trainer, seconds / done)
                raise _EnoughError

    def _begin(self, trainer: Trainer) -> None:
        _synchronize(trainer)
        _reset_peak(trainer.strategy.root_device)
        self._start = time.perf_counter()

    def _finish(self, trainer: Trainer, seconds: float) -> None:
        loaders = CombinedLoader(trainer.train_dataloader).flattened  # one loader, or one per half
        device = trainer.strategy.root_device
        self.measured = Measurement(
            device=str(device),
            batch=loaders[0].batch_size,
            images=min(len(each.dataset) for each in loaders) // trainer.world_size,
            size=self.size,
            seconds=seconds,
            steps=int(trainer.num_training_batches),
            epochs=int(trainer.max_epochs or 0),
            peak=_peak(device),
            available=_available(device),
        )


class ForecastCLI(NASCLI):
    """``fit`` with a stopwatch.

    Args:
        stopwatch: The only callback of the run.
        args: Command line.
    """

    def __init__(self, stopwatch: Stopwatch, args: list[str]) -> None:
        self.stopwatch = stopwatch
        super().__init__(args=args, guarded=False)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the stopwatch, in Lightning's documented place for arguments of the trainer."""
        return super().instantiate_trainer(callbacks=[self.stopwatch], **kwargs)


def measure(args: list[str], resize: float = 1.0) -> Measurement:
    """Run a few steps of a training.

    Args:
        args: Arguments of ``fit``.
        resize: Factor that the batch size is multiplied by.

    Raises:
        SystemExit: The parser has refused the arguments.
        ConfigError: The length of the training is not known, or it has no step.
    """
    stopwatch = Stopwatch(resize)
    with tempfile.TemporaryDirectory() as folder, suppress(_EnoughError):
        overrides = [*_OVERRIDES, f"--trainer.default_root_dir={folder}"]
        run(["fit", *args, *overrides], make=partial(ForecastCLI, stopwatch))
    gc.collect()  # task and trainer refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if stopwatch.measured is None:
        raise ConfigError("There was no training step to measure. Set --trainer.max_epochs to at least 1.")
    return stopwatch.measured


def largest_batch(first: Measurement, second: Measurement) -> int:
    """Estimate the largest batch that fits, by a line through the peak memory of two batch sizes.

    Args:
        first: Measurement with the configured batch size.
        second: Measurement with another one.

    Returns:
        Number of images, at most all of them; a multiple of 8 if it is at least 8.
    """
    slope = (second.peak - first.peak) / (second.batch - first.batch)
    room = MARGIN * first.available - first.peak
    # if memory does not grow measurably, the number of images is the limit
    images = first.batch + room / slope if slope > 0 else math.inf
    largest = max(0, int(min(images, first.images)))
    return largest - largest % 8 if largest >= 8 else largest


def forecast(args: list[str]) -> dict[str, Any]:
    """Forecast time and memory of a training.

    Args:
        args: Arguments of ``fit``.

    Returns:
        ``seconds_per_step``, ``steps_per_epoch``, ``seconds_per_epoch``, ``epochs``, ``hours``, ``peak_memory_mib``,
        ``available_memory_mib``, ``batch_size`` and ``largest_batch_size`` (images; None if the batch size cannot be
        changed), ``largest_setting`` (name and value of the largest batch size in the data module, or None), and
        ``device``.
    """
    first = measure(args)
    largest, setting = None, None
    # a batch of twice the size takes at most twice the memory, since not all of it grows with the batch
    bigger = 2 * first.batch <= first.images and 2 * first.peak < first.available
    if first.size is not None and (bigger or first.size[1] > 1):
        second = measure(args, 2 if bigger else 0.5)
        if second.batch != first.batch:
            largest = largest_batch(first, second)
            name, value = first.size
            setting = {name: largest * value // first.batch}
    step = round(first.seconds, 6)
    return {
        "seconds_per_step": step,
        "steps_per_epoch": first.steps,
        "seconds_per_epoch": step * first.steps,
        "epochs": first.epochs,
        "hours": step * first.steps * first.epochs / 3600,
        "peak_memory_mib": round(first.peak / 2**20, 1),
        "available_memory_mib": round(first.available / 2**20, 1),
        "batch_size": first.batch,
        "largest_batch_size": largest,
        "largest_setting": setting,
        "device": first.device,
    }


def table(found: dict[str, Any]) -> str:
    """Format a forecast as a table.

    Args:
        found: Result of ``forecast``.
    """
    setting = found["largest_setting"]
    largest = "unknown" if setting is None else f"about {found['largest_batch_size']} images"
    if setting is not None:
        largest += ", an estimate: " + ", ".join(f"--data.init_args.{name}={value}" for name, value in setting.items())
    rows = {
        "device": found["device"],
        "seconds per step": f"{found['seconds_per_step']:.4f}",
        "steps per epoch": found["steps_per_epoch"],
        "seconds per epoch": f"{found['seconds_per_epoch']:.1f}",
        "epochs": found["epochs"],
        "hours in total": f"{found['hours']:.3g} (training only: no validation, no measurements at the end)",
        "peak memory": f"{found['peak_memory_mib']:.0f} MiB of {found['available_memory_mib']:.0f} MiB available, "
        f"at a batch of {found['batch_size']}",
        "largest batch": largest,
    }
    return "\n".join(f"{name:<18}{value}" for name, value in rows.items())


def main(args: list[str]) -> None:
    """Run ``lightning-nas forecast``.

    Args:
        args: Arguments of ``fit``.
    """
    found = forecast(args)
    rank_zero_only(print)(f"{table(found)}\nThe run was not started.\n{json.dumps(found)}")


# -- memory -----------------------------------------------------------------------------------------------------------


def _synchronize(trainer: Trainer) -> None:
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)


def _proc(file: str, key: str) -> int | None:
    """Read a number of bytes from a file in Linux's /proc, which gives it in kB; None on other systems."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith(f"{key}:")]
    return int(found[0].split()[1]) * 1024 if found else None


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # not Linux, or not allowed: then the peak is that of the whole life of the process
            Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = _proc("/proc/self/status", "VmHWM")
    if found is not None:
        return found
    used = peak_memory()
    if used is None:
        raise ConfigError(
            "This system does not tell how much memory a process takes. A forecast for its CPU needs that."
        )
    return used


def _available(device: torch.device) -> int:
    """Memory that the process could use in bytes: free memory, and what it uses already."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    free_memory, own = _proc("/proc/meminfo", "MemAvailable"), _proc("/proc/self/status", "VmRSS")
    if free_memory is not None and own is not None:
        return free_memory + own
    if not hasattr(os, "sysconf"):
        raise ConfigError("This system does not tell how much memory it has. A forecast for its CPU needs that.")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
