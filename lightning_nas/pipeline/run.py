"""Run the stages of a pipeline, one after the other, in one run folder."""

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_nas.callbacks.run_folder import lock
from lightning_nas.cli import lightning
from lightning_nas.cli.commands import choose_formats, export_checkpoint
from lightning_nas.errors import ConfigError, InterruptedTrainingError
from lightning_nas.files.artifacts import read_json, write_bytes, write_json
from lightning_nas.pipeline.config import EXPORT, Arguments
from lightning_nas.pipeline.stages import Stage, resolve
from lightning_nas.pipeline.summary import summarize, tested_accuracy
from lightning_nas.report.page import write_report
from lightning_nas.report.screen import table
from lightning_nas.spaces.artifact import build_space, load_architecture

ONE_PROCESS = {"devices": ("auto", "1"), "num_nodes": (1, "1"), "strategy": ("auto", "auto")}
"""Settings of a trainer that decide on the number of processes: Lightning's default, and the value for one process."""


@dataclass
class Pipeline:
    """A chain of ordinary fits in one run folder.

    Every stage's full configuration is written to ``RUN/<stage>.yaml`` and run as ``lightning-nas fit --config`` that
    file: in this process on one device, as a process of its own on several, so that a launcher replays the stage alone.

    Args:
        config: Configuration of the pipeline.
        run_dir: Run folder.
        base: Folder that paths of stage files are relative to, where they don't exist as given.
        command: Command line, for the summary.
    """

    config: dict[str, Any]
    run_dir: Path
    base: Path
    command: str
    records: list[dict[str, Any]] = field(default_factory=list)
    child: subprocess.Popen[bytes] | None = None

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages in their order."""
        return resolve(self.config, self.run_dir, self.base)

    @property
    def export_settings(self) -> dict[str, Any]:
        """``formats`` and ``licence`` of the exported network, where they are given."""
        return dict(self.config["stages"].get(EXPORT) or {})

    def run(self) -> dict[str, Any]:
        """Run all stages that are not done yet, write summary and report, and return the summary.

        Raises:
            ConfigError: The run folder holds a run with another configuration, or the configuration of a stage is
                wrong. Both are raised before the first stage starts, except for what only a constructor knows. A stage
                that has not begun may then be given another configuration.
            MissingDependencyError: The packages of a format that the network is to be exported in are not installed.
        """
        if "formats" in self.export_settings:
            choose_formats(self.export_settings["formats"])
        self._write_configs()
        for stage in self.stages:
            if stage.drawn_from is not None:
                self._draw(stage, stage.drawn_from)
            self._stage(stage)
        exported = self._export()
        summary = summarize(self.stages, self.run_dir, self.records, exported)
        summary |= {"command": self.command, "seed": self.config["seed_everything"]}
        write_json(self.run_dir / "summary.json", summary)
        write_report(self.run_dir)
        return summary

    def _write_configs(self) -> None:
        """Check the configuration of every stage, and write it unless the stage has begun with another one."""
        texts = {stage.name: yaml.safe_dump(stage.config, sort_keys=False) for stage in self.stages}
        for name, text in texts.items():
            path = self.run_dir / f"{name}.yaml"
            if path.is_file() and path.read_text() != text and self._begun(name):
                raise ConfigError(
                    f"{path} is of a run with another configuration. Use another --run_dir, or delete "
                    f"{self.run_dir} to start anew."
                )
        with tempfile.TemporaryDirectory() as folder:  # a wrong configuration must not stay in the run folder
            for stage in self.stages:
                if stage.drawn_from is None:  # the others differ in one path only
                    lightning.check_config(write_bytes(Path(folder) / f"{stage.name}.yaml", texts[stage.name].encode()))
        for name, text in texts.items():
            write_bytes(self.run_dir / f"{name}.yaml", text.encode())

    def _begun(self, name: str) -> bool:
        """Whether a stage has left anything that another configuration would not have made."""
        folder = self.run_dir / name
        return (folder / "done.json").is_file() or self._checkpoint(name).is_file()

    def _checkpoint(self, name: str) -> Path:
        return self.run_dir / name / "checkpoints" / "last.ckpt"

    def _stage(self, stage: Stage) -> None:
        """Run a stage, or go on with it, unless it is done."""
        name, checkpoint = stage.name, self._checkpoint(stage.name)
        done = self.run_dir / name / "done.json"
        if done.is_file():
            print(f"{name}: done before, in {self.run_dir}")
        else:
            print(f"\n== {name} ==", flush=True)
            start = time.perf_counter()
            config = ["--config", str(self.run_dir / f"{name}.yaml")]
            resume = ["--ckpt_path", str(checkpoint)] if checkpoint.is_file() else []
            self._command(["fit", *config, *resume], stage.config["trainer"])
            if not checkpoint.is_file():
                raise ConfigError(f"{name} left no checkpoint at {checkpoint}. It must train for at least one epoch.")
            if stage.test:
                self._command(["test", *config, "--ckpt_path", str(checkpoint)], stage.config["trainer"])
            seconds = time.perf_counter() - start
            write_json(done, {"seconds": round(seconds, 2), "resumed": bool(resume)})
        content = read_json(done, repair="Delete it to run the stage again.")
        self.records.append({"name": name, "seconds": content["seconds"], "resumed": content["resumed"]})

    def _command(self, args: list[str], trainer: Mapping[str, Any]) -> None:
        """Run one of Lightning's commands, in this process where it needs no other one."""
        # by default Lightning takes all devices that there are; a strategy of its own leaves traces in the process
        if all(str(trainer.get(key, default)) == one for key, (default, one) in ONE_PROCESS.items()):
            lightning.run(args)
            return
        self.child = subprocess.Popen([sys.executable, "-m", "lightning_nas", *args])
        try:
            code = self.child.wait()
        finally:
            self.child = None
        if code == InterruptedTrainingError.exit_code:
            raise InterruptedTrainingError(f"'lightning-nas {' '.join(args)}' was asked to stop and did.")
        if code:
            raise ConfigError(f"'lightning-nas {' '.join(args)}' failed; its own message is above.")

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Hand SIGTERM on to the process of a stage; elsewhere it ends the pipeline at once.

        A training in this process answers it by itself, see ``lightning_nas.callbacks.preemption``.
        """

        def answer(number: int, frame: Any) -> None:
            if self.child is None:
                raise InterruptedTrainingError("The pipeline was asked to stop and did.")
            self.child.send_signal(number)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, answer)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _draw(self, stage: Stage, source: Path) -> None:
        """Write the random architecture that a stage trains: uniform over the space of the found one."""
        path = Path(stage.arguments["architecture"])
        if path.is_file():
            return
        seed = self.config["seed_everything"]
        space = build_space(load_architecture(source).space)
        generator = torch.Generator().manual_seed(seed)
        drawn = [space.sample(generator) for _ in range(stage.draw + 1)][-1]
        drawn.save(path, drawn="uniformly from the whole space", seed=seed, draw=stage.draw)

    def _export(self) -> dict[str, Any]:
        """Write the trained network as files."""
        print("\n== export ==", flush=True)
        start = time.perf_counter()
        name = next(stage.name for stage in self.stages if stage.test)
        figures = {"test_accuracy": tested_accuracy(self.run_dir / name)}
        exported = export_checkpoint(self._checkpoint(name), self.run_dir, figures=figures, **self.export_settings)
        self.records.append({"name": EXPORT, "seconds": round(time.perf_counter() - start, 2), "resumed": False})
        return exported


def main(arguments: Arguments) -> None:
    """``lightning-nas pipeline``.

    Args:
        arguments: Its command line.

    Raises:
        ConfigError: The run folder cannot be written to, another pipeline runs in it, or a configuration is wrong.
        InterruptedTrainingError: SIGTERM has stopped the pipeline.
    """
    named = arguments.run_dir
    run_dir = (named or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")).resolve()
    command = " ".join(["lightning-nas pipeline", *arguments.given])
    pipeline = Pipeline(arguments.config, run_dir, arguments.base, command)
    if arguments.print_config:
        print(yaml.safe_dump({stage.name: stage.config for stage in pipeline.stages}, sort_keys=False), end="")
        return
    with lock(run_dir, ".pipeline.lock"), pipeline.stoppable():
        try:
            summary = pipeline.run()
        except InterruptedTrainingError as error:
            folder = [] if named is not None else ["--run_dir", str(run_dir)]
            error.resume = ["pipeline", *arguments.given, *folder]
            raise
    print(f"\n{table(summary)}\n\nReport: {run_dir / 'report.html'}    Network: {run_dir / 'network.py'}")
