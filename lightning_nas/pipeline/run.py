"""One YAML from images to a found network: distill, check the proxy, search, refine, train, test, export."""

import os
import platform
import resource
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lightning_nas.errors import ConfigError, InterruptedTrainingError
from lightning_nas.files.artifacts import read_json, write_bytes, write_json
from lightning_nas.pipeline.config import parse, read_yaml
from lightning_nas.pipeline.stages import Stages

_ONE_PROCESS = {"devices": "auto", "num_nodes": 1, "strategy": "auto"}
"""Settings of a trainer that decide how many processes there are, with Lightning's defaults."""


@dataclass
class Pipeline:
    """A chain of ordinary fits in one run folder.

    Every stage's full configuration is written to ``RUN/<stage>.yaml`` and run as ``lightning-nas fit --config`` that
    file: in this process on one device, as a process of its own on several, so that a launcher replays the stage alone.

    Args:
        config: The pipeline's configuration.
        run_dir: The run folder.
        base: What paths of stage files are relative to, where they don't exist as given.
        command: The command line, for the summary.
    """

    config: dict[str, Any]
    run_dir: Path
    base: Path
    command: str
    seconds: list[dict[str, Any]] = field(default_factory=list)
    child: subprocess.Popen[bytes] | None = None

    @cached_property
    def stages(self) -> Stages:
        """The configurations of all stages."""
        return Stages(self.config, self.run_dir, self.base)

    @property
    def export_settings(self) -> dict[str, Any]:
        """``formats`` and ``licence`` of the exported network, where they are given."""
        return dict(self.config["stages"].get("export") or {})

    # -- running --------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Run all stages that are not done yet, write summary and report, and return the summary.

        Raises:
            ConfigError: The run folder holds another pipeline's run, or a stage's configuration is wrong: said before
                the first stage starts, but for what only a constructor knows. A stage that has not begun may then be
                given another configuration.
            MissingDependencyError: The packages of a format that the network is to be exported in are not installed.
        """
        from lightning_nas.cli.commands import choose_formats
        from lightning_nas.cli.lightning import check_config

        if "formats" in self.export_settings:
            choose_formats(self.export_settings["formats"])
        if self.config["stages"].get("fidelity") and "fidelity" not in self.stages.fits:
            print("fidelity: left out, because nothing is distilled")
        configs = {name: self.stages.config_of(name) for name in self.stages.fits}
        for i in range(self.random_architectures):
            configs[f"random_{i}"] = random = self.stages.config_of("train", f"random_{i}")
            random["model"]["init_args"]["architecture"] = str(self.run_dir / f"random_{i}" / "architecture.json")
        texts = {name: yaml.safe_dump(config, sort_keys=False) for name, config in configs.items()}
        for name, text in texts.items():
            path = self.run_dir / f"{name}.yaml"
            if path.is_file() and path.read_text() != text and self._begun(name):
                raise ConfigError(
                    f"{path} is of a run with another configuration. Use another --run_dir, or delete "
                    f"{self.run_dir} to start anew."
                )
        with tempfile.TemporaryDirectory() as folder:  # a wrong configuration must not stay in the run folder
            for name in self.stages.fits:
                check_config(write_bytes(Path(folder) / f"{name}.yaml", texts[name].encode()))
        for name, text in texts.items():
            write_bytes(self.run_dir / f"{name}.yaml", text.encode())
        for name in self.stages.fits:
            self._stage(name, test=name == "train")
        self._sample_random()
        for i in range(self.random_architectures):
            self._stage(f"random_{i}", test=True)
        exported = self._export()
        return self._summary(exported)

    @property
    def random_architectures(self) -> int:
        """How many random architectures are trained like the found one."""
        return int(self.config.get("random_architectures", 3))

    def _begun(self, name: str) -> bool:
        """Whether a stage has left anything that another configuration would not have made."""
        folder = self.run_dir / name
        return (folder / "done.json").is_file() or (folder / "checkpoints" / "last.ckpt").is_file()

    def _stage(self, name: str, *, test: bool) -> None:
        done = self.run_dir / name / "done.json"
        if done.is_file():
            print(f"{name}: done before, in {self.run_dir}")
        else:
            print(f"\n== {name} ==", flush=True)
            start = time.perf_counter()
            config = ["--config", str(self.run_dir / f"{name}.yaml")]
            checkpoint = self.run_dir / name / "checkpoints" / "last.ckpt"
            resume = ["--ckpt_path", str(checkpoint)] if checkpoint.is_file() else []
            trainer = read_yaml(self.run_dir / f"{name}.yaml")["trainer"]
            self._command(["fit", *config, *resume], trainer)
            if not checkpoint.is_file():
                raise ConfigError(f"{name} left no checkpoint at {checkpoint}. It must train for at least one epoch.")
            if test:
                self._command(["test", *config, "--ckpt_path", str(checkpoint)], trainer)
            seconds = time.perf_counter() - start
            write_json(done, {"seconds": round(seconds, 2), "resumed": bool(resume)})
        content = read_json(done, repair="Delete it to run the stage again.")
        self.seconds.append({"name": name, "seconds": content["seconds"], "resumed": content["resumed"]})

    def _command(self, args: list[str], trainer: Mapping[str, Any]) -> None:
        # by default Lightning takes all devices that there are; a strategy of its own leaves traces in the process
        settings = [str(trainer.get(key, default)) for key, default in _ONE_PROCESS.items()]
        if settings == ["1", "1", "auto"]:
            from lightning_nas.cli.lightning import run

            run(args)
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

    def _sample_random(self) -> None:
        import torch

        from lightning_nas.spaces.artifact import build_space, load_architecture

        space = build_space(load_architecture(self.run_dir / "architecture.json").space)
        generator = torch.Generator().manual_seed(self.stages.seed)
        for i in range(self.random_architectures):
            path = self.run_dir / f"random_{i}" / "architecture.json"
            drawn = space.sample(generator)
            if not path.is_file():
                drawn.save(path, drawn="uniformly from the whole space", seed=self.stages.seed, draw=i)

    def _export(self) -> dict[str, Any]:
        from lightning_nas.cli.commands import export_checkpoint

        print("\n== export ==", flush=True)
        start = time.perf_counter()
        checkpoint = self.run_dir / "train" / "checkpoints" / "last.ckpt"
        figures = {"test_accuracy": self._tested("train")}
        exported = export_checkpoint(checkpoint, self.run_dir, figures=figures, **self.export_settings)
        self.seconds.append({"name": "export", "seconds": round(time.perf_counter() - start, 2), "resumed": False})
        return exported

    # -- results --------------------------------------------------------------------------------------------------

    def _tested(self, name: str) -> float:
        """The test accuracy that a stage logged last, as a fraction."""
        import csv

        found = None
        for path in sorted((self.run_dir / name).glob("version_*/metrics.csv"), key=lambda p: p.stat().st_mtime):
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    found = row.get("test/accuracy") or found
        if found is None:
            raise ConfigError(
                f"No test accuracy was logged under {self.run_dir / name}. Delete that folder to run the stage again."
            )
        return float(found)

    def _summary(self, exported: dict[str, Any]) -> dict[str, Any]:
        import statistics

        import torch

        from lightning_nas.cli.commands import size, trained_network
        from lightning_nas.report.page import write_report
        from lightning_nas.spaces.artifact import build_space, load_architecture

        architecture = load_architecture(self.run_dir / "architecture.json")
        searched = read_json(self.stages.search_dir / "architecture.json", repair="Run the search again.")["provenance"]
        distilled = self.run_dir / "proxy.json"
        proxy = read_json(distilled, repair="Run the distillation again.") if distilled.is_file() else {}
        measured = self.run_dir / "fidelity.json"
        fidelity = read_json(measured, repair="Run the stage fidelity again.") if "fidelity" in self.stages.fits else {}
        randoms = [self._tested(f"random_{i}") for i in range(self.random_architectures)]
        checkpoints = [self.run_dir / f"random_{i}" / "checkpoints" / "last.ckpt" for i in range(len(randoms))]
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        summary = {
            "run_dir": str(self.run_dir),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": self.command,
            "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs"
            + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"),
            "versions": {p: version(p) for p in ("lightning_nas", "torch", "lightning", "torchvision")},
            "seed": self.stages.seed,
            "stages": self.seconds,
            "seconds": {s["name"]: s["seconds"] for s in self.seconds},
            "seconds_total": round(sum(s["seconds"] for s in self.seconds), 2),
            "proxy_images": proxy.get("proxy_images"),
            "source_images": proxy.get("source_images"),
            "fidelity": {k: v for k, v in fidelity.items() if k not in ("schema", "lightning_nas", "results")} or None,
            "parameters": exported["parameters"],
            "macs": exported["macs"],
            "test_accuracy": self._tested("train"),
            "random_test_accuracy": statistics.mean(randoms) if randoms else None,
            "random_test_accuracy_std": statistics.stdev(randoms) if len(randoms) > 1 else None,
            "random_test_accuracies": randoms,
            "random_parameters": [size(trained_network(path)[1])["parameters"] for path in checkpoints],
            "genotype": build_space(architecture.space).text(architecture),
            "searched_genotype": searched["text"],
            "selection_errors": searched["selection_errors"],
            "export_difference": exported["difference"],
            "export_differences": {Path(f["path"]).name: f["difference"] for f in exported["files"]},
            "peak_memory_mb": round(peak / 1024, 1),
        }
        write_json(self.run_dir / "summary.json", summary)
        write_report(self.run_dir)
        return summary


def main(args: list[str]) -> None:
    """``lightning-nas pipeline``.

    Raises:
        ConfigError: The run folder cannot be written to, or another pipeline runs in it.
        InterruptedTrainingError: SIGTERM has stopped it.
    """
    from lightning_nas.callbacks.run_folder import lock
    from lightning_nas.report.screen import table

    config, run_dir, base = parse(args)
    named = run_dir is not None
    run_dir = run_dir or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    run_dir = run_dir.resolve()
    pipeline = Pipeline(config, run_dir, base, " ".join(["lightning-nas pipeline", *args]))
    with lock(run_dir, ".pipeline.lock"), pipeline.stoppable():
        try:
            summary = pipeline.run()
        except InterruptedTrainingError as error:
            error.resume = ["pipeline", *args] if named else ["pipeline", *args, "--run_dir", str(run_dir)]
            raise
    print(f"\n{table(summary)}\n\nReport: {run_dir / 'report.html'}    Network: {run_dir / 'network.py'}")
