"""One fit of a pipeline: what its stage runs, in this process or in a worker."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_nas.callbacks.run_folder import owned
from lightning_nas.cli import lightning
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.executors import Processes
from lightning_nas.files.classes import import_modules
from lightning_nas.pipeline.lines import result
from lightning_nas.pipeline.logs import finish_wandb, logged
from lightning_nas.pipeline.records import Record, digests
from lightning_nas.pipeline.stages import Stage
from lightning_nas.terminal import INDENT, shown

_ONE_PROCESS = {"devices": ("auto", "1"), "num_nodes": (1, "1"), "strategy": ("auto", "auto")}
"""Settings of a trainer that decide on the number of processes: Lightning's default, and the value for one process."""


@dataclass(frozen=True)
class Fit:
    """A stage that has begun and is not done.

    Attributes:
        name: Name of the stage.
        run_dir: Run folder.
        record: What is known about the stage.
        test: Whether the network is tested after the fit.
        output_dir: Folder of its artifacts, if it writes any.
        rewrites: Files of earlier stages that it adds something to.
        imports: Modules to import before.
        place: Which one of several fits it is, such as ``3 of 32``.
    """

    name: str
    run_dir: Path
    record: Record
    test: bool
    output_dir: Path | None
    rewrites: Sequence[Path]
    imports: str | Sequence[str] = ()
    place: str = ""

    @property
    def folder(self) -> Path:
        """Folder of the stage."""
        return self.run_dir / self.name

    @property
    def checkpoint(self) -> Path:
        """Checkpoint of its last epoch."""
        return self.folder / "checkpoints" / "last.ckpt"

    def run(self, command: Callable[[list[str]], object]) -> Record:
        """Fit, from the checkpoint if there is one, test, and write ``done.json``.

        Args:
            command: Runs a command of Lightning.

        Raises:
            ConfigError: The fit has left no checkpoint.
        """
        start = time.perf_counter()
        config = ["--config", str(self.run_dir / f"{self.name}.yaml")]
        resume = ["--ckpt_path", str(self.checkpoint)] if self.checkpoint.is_file() else []
        command(["fit", *config, *resume, "--run_folder.run", self.record.run])
        if not self.checkpoint.is_file():
            raise ConfigError(
                f"{self.name} left no checkpoint at {self.checkpoint}. It must train for at least one epoch."
            )
        if self.test:
            command(["test", *config, "--ckpt_path", str(self.checkpoint), "--verbose", "false"])
        written = owned(self.output_dir, self.record.run) if self.output_dir else []
        self.record.outputs = digests([self.checkpoint, *written, *self.rewrites], self.run_dir)
        self.record.seconds, self.record.resumed = round(time.perf_counter() - start, 2), bool(resume)
        self.record.finish(self.folder)
        return self.record


def in_one_process(trainer: Mapping[str, Any]) -> bool:
    """Whether a trainer needs no other process than the one that it is made in.

    Args:
        trainer: Its arguments.
    """
    # by default Lightning takes all GPUs, but one CPU; a strategy of its own leaves traces in the process
    given = {key: str(trainer.get(key, default)) for key, (default, _) in _ONE_PROCESS.items()}
    if trainer.get("accelerator") == "cpu" and given["devices"] == "auto":
        given["devices"] = "1"
    return all(given[key] == one for key, (_, one) in _ONE_PROCESS.items())


def check_workers(workers: int, stages: Sequence[Stage]) -> None:
    """Refuse stages that workers cannot run.

    Args:
        workers: Number of workers.
        stages: The stages.

    Raises:
        ConfigError: A trainer would start processes of its own.
    """
    for stage in stages:
        if not in_one_process(stage.config["trainer"]):
            raise ConfigError(
                f"workers is {workers}, but the trainer of {stage.name} starts processes of its own. Leave out "
                "workers, or set its devices to 1 and its strategy to auto."
            )


def run_in_workers(fits: Sequence[Fit], workers: int) -> list[Record]:
    """Run several fits at the same time, each in a process with one thread unless its stage has ``num_threads``.

    What a fit prints is in ``log.txt`` in its folder. One that fails costs no other one.

    Args:
        fits: The fits.
        workers: Number of processes.

    Returns:
        The records of the fits, in their order.

    Raises:
        NASError: A fit has failed; it is the error of the first one.
    """
    executor = Processes(min(workers, len(fits)))
    try:
        outcomes = executor.attempt(_run_logged, fits)
    finally:
        executor.close()
    for fit, outcome in zip(fits, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            outcome.args = (f"Stage {fit.name}: {outcome} (more in {fit.folder / 'log.txt'})",)
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Record)]


def _run_logged(fit: Fit) -> Record:
    """What a worker does."""
    import_modules(fit.imports)
    with logged(fit.folder / "log.txt"), shown():
        try:
            record = fit.run(lightning.run)
        except Exception:
            traceback.print_exc()
            raise
        finally:
            finish_wandb()  # the worker may be ended at once
    print(f"{INDENT}{fit.name} ({fit.place}): {result(fit.folder, record, fit.test)}", flush=True)
    return record
