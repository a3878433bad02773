"""``lightning-nas forecast``: what a training will take, from a few of its own steps."""

import gc
import json
import math
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

WARM_UP = 2
"""Steps before the clock starts: the first allocate memory and choose kernels."""

STEPS, SECONDS = 2, 0.5
"""The clock runs for at least so many steps and so long, within the first epoch."""

MARGIN = 0.9
"""Part of the available memory that a batch may fill: fragments and other programs need some."""

SIZES = ("batch_size", "images_per_class")
"""What data modules call the size of a batch."""

HELP = """usage: lightning-nas forecast --config FILE [options of fit]

Runs a few real training steps and prints what the whole training takes: seconds a step and an epoch, hours, peak
memory, and an estimate of the largest batch that fits. Validation and what a task measures at its end are not counted,
and callbacks are left out. Nothing is written. The last line is JSON.

'lightning-nas fit --forecast true ...' is the same. The options are those of 'lightning-nas fit --help'.
"""

# the run's own files and services stay as they are; what the steps compute is the user's
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
    """Leaves ``Trainer.fit`` before an epoch ends: tasks write their artifacts there."""


@dataclass
class Measurement:
    """A few steps.

    Attributes:
        device: Where they ran.
        batch: Images a process and batch, in every half.
        images: Training images that a process can draw a batch from.
        size: The data module's name and value for the size of a batch; None where it has no known name.
        seconds: Of a step, with the reading of its batch.
        steps: Batches an epoch and process.
        epochs: Of the whole training.
        peak: Most memory held during the steps, bytes: on CUDA by tensors, else by the process.
        available: Memory that the process could hold, bytes.
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
        resize: Factor of the size of a batch.
    """

    def __init__(self, resize: float = 1.0) -> None:
        self.resize = resize
        self.size: tuple[str, int] | None = None
        self.measured: Measurement | None = None
        self._start = 0.0
        self._warm_up = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the size of a batch."""
        data: Any = getattr(trainer, "datamodule", None)
        name = next((n for n in SIZES if isinstance(getattr(data, n, None), int)), None)
        if name is not None:
            self.size = name, max(1, int(getattr(data, name) * self.resize))
            setattr(data, *self.size)
        task: Any = pl_module
        if getattr(task, "warmup_epochs", 0):
            task.warmup_epochs = 0  # epochs in which alphas rest are shorter than the others

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start at once where the epoch is too short for a warm-up."""
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
        """Start after the warm-up; stop when enough was seen.

        Raises:
            _EnoughError: It was.
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
        loaders = CombinedLoader(trainer.train_dataloader).flattened  # one, or one a half
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
    """``fit`` under a stopwatch.

    Args:
        stopwatch: The only callback.
        args: Command line.
    """

    def __init__(self, stopwatch: Stopwatch, args: list[str]) -> None:
        self.stopwatch = stopwatch
        super().__init__(args=args, guarded=False)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lightning's documented place for arguments of the trainer."""
        return super().instantiate_trainer(callbacks=[self.stopwatch], **kwargs)


def measure(args: list[str], resize: float = 1.0) -> Measurement:
    """Run a few steps of a training.

    Args:
        args: Those of ``fit``.
        resize: Factor of the size of a batch.

    Raises:
        SystemExit: The parser refused the arguments.
        ConfigError: The training has no known length.
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
    """The largest batch that fits, by a line through the peaks of two sizes.

    Args:
        first: At the configured size.
        second: At another.

    Returns:
        Images, a multiple of 8 from 8 on, at most all of them.
    """
    slope = (second.peak - first.peak) / (second.batch - first.batch)
    room = MARGIN * first.available - first.peak
    # memory that does not grow is smaller than what can be told from noise: the data are the limit
    images = first.batch + room / slope if slope > 0 else math.inf
    largest = max(0, int(min(images, first.images)))
    return largest - largest % 8 if largest >= 8 else largest


def forecast(args: list[str]) -> dict[str, Any]:
    """What a training will take.

    Args:
        args: Those of ``fit``.

    Returns:
        ``seconds_a_step``, ``steps_an_epoch``, ``seconds_an_epoch``, ``epochs``, ``hours``, ``peak_memory_mib``,
        ``available_memory_mib``, ``batch_size`` and ``largest_batch_size`` (images; None where the size of a batch
        cannot be changed), ``largest_setting`` (the data module's name and value for it, or None), ``device``.
    """
    first = measure(args)
    largest, setting = None, None
    # twice the memory is a bound, since not all of it grows with the batch
    bigger = 2 * first.batch <= first.images and 2 * first.peak < first.available
    if first.size is not None and (bigger or first.size[1] > 1):
        second = measure(args, 2 if bigger else 0.5)
        if second.batch != first.batch:
            largest = largest_batch(first, second)
            name, value = first.size
            setting = {name: largest * value // first.batch}
    step = round(first.seconds, 6)
    return {
        "seconds_a_step": step,
        "steps_an_epoch": first.steps,
        "seconds_an_epoch": step * first.steps,
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
    """A forecast for people."""
    setting = found["largest_setting"]
    largest = "unknown" if setting is None else f"about {found['largest_batch_size']} images"
    if setting is not None:
        largest += ", an estimate: " + ", ".join(f"--data.init_args.{name}={value}" for name, value in setting.items())
    rows = {
        "device": found["device"],
        "seconds a step": f"{found['seconds_a_step']:.4f}",
        "steps an epoch": found["steps_an_epoch"],
        "seconds an epoch": f"{found['seconds_an_epoch']:.1f}",
        "epochs": found["epochs"],
        "hours in all": f"{found['hours']:.3g} (training only: no validation, no measurements at the end)",
        "peak memory": f"{found['peak_memory_mib']:.0f} MiB of {found['available_memory_mib']:.0f} MiB available, "
        f"at a batch of {found['batch_size']}",
        "largest batch": largest,
    }
    return "\n".join(f"{name:<18}{value}" for name, value in rows.items())


def main(args: list[str]) -> None:
    """``lightning-nas forecast``.

    Args:
        args: Those of ``fit``.
    """
    if {"-h", "--help"} & set(args):
        print(HELP)
        return
    found = forecast(args)
    rank_zero_only(print)(f"{table(found)}\nThe run was not started.\n{json.dumps(found)}")


# -- memory -----------------------------------------------------------------------------------------------------------


def _synchronize(trainer: Trainer) -> None:
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)


def _proc(file: str, key: str) -> int | None:
    """Bytes that a file of Linux's /proc gives in kB; None elsewhere."""
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
        with suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole process
            Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = _proc("/proc/self/status", "VmHWM")
    if found is not None:
        return found
    import resource
    import sys

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024  # bytes there, kB elsewhere


def _available(device: torch.device) -> int:
    """What the process could hold: what is free, and what it holds already."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    free_memory, own = _proc("/proc/meminfo", "MemAvailable"), _proc("/proc/self/status", "VmRSS")
    if free_memory is not None and own is not None:
        return free_memory + own
    import os

    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
