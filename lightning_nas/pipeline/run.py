"""Run the stages of a pipeline, one after the other, in one run folder."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule

from lightning_nas.cli import lightning
from lightning_nas.cli.exports import choose_formats, export_checkpoint, measured_lines, size, trained_network
from lightning_nas.cli.lightning import build
from lightning_nas.errors import ConfigError, InterruptedTrainingError, NASError
from lightning_nas.files.artifacts import remove_leftovers, write_bytes, write_json
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.pipeline import baselines as standard
from lightning_nas.pipeline.baselines import LATENCY, Baseline
from lightning_nas.pipeline.clock import RunClock
from lightning_nas.pipeline.config import EXPORT, read_yaml
from lightning_nas.pipeline.evidence import write_candidates
from lightning_nas.pipeline.fits import Fit, check_workers, in_one_process, run_in_workers
from lightning_nas.pipeline.lines import Lines, comparison, count_steps, describe, result
from lightning_nas.pipeline.preflight import check_needs, class_of
from lightning_nas.pipeline.records import Record, check_unchanged, inputs_of, read_record
from lightning_nas.pipeline.stages import Stage, resolve
from lightning_nas.pipeline.summary import Compared, compare, evidence, summarize, tested_accuracy
from lightning_nas.report.page import write_report
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.tasks.train import TrainTask
from lightning_nas.terminal import INDENT, tell


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
        final: Whether one of the stages is a final training, whose network is tested and exported.
    """

    config: dict[str, Any]
    run_dir: Path
    base: Path
    command: str
    final: bool = True
    records: list[dict[str, Any]] = field(default_factory=list)
    child: "subprocess.Popen[bytes] | None" = None
    asked: bool = False
    parsed: dict[str, Namespace] = field(default_factory=dict)
    known: dict[str, Record] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    clock: RunClock | None = None
    begun: bool = False

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages in their order."""
        return resolve(self.config, self.run_dir, self.base, self.final)

    @cached_property
    def lines(self) -> Lines:
        """Says where the pipeline is."""
        return Lines(count_steps(self.stages, self.final))

    @property
    def export_settings(self) -> dict[str, Any]:
        """``formats``, ``licence`` and ``raw_images`` of the exported network, where they are given."""
        return dict(self.config["stages"].get(EXPORT) or {})

    @property
    def finished(self) -> bool:
        """Whether all stages are done or left out, and the summary of a final training is written."""
        left_out = [each.name for each in self.stages if each.baseline and standard.is_left_out(each.baseline)]
        return all(stage.name in left_out or self._done(stage.name) for stage in self.stages) and (
            not self.final or (self.run_dir / "summary.json").is_file()
        )

    def run(self) -> dict[str, Any]:
        """Run all stages that are not done yet, write summary and report, and return the summary.

        Raises:
            ConfigError: The run folder holds something else or a run with another configuration, or what its stages
                have read or written was replaced.
            NASError: A stage would fail.
        """
        checkpoints = [self._checkpoint(stage.name) for stage in self.stages]
        self.clock = RunClock(self.run_dir, checkpoints, running=not self.finished)
        try:
            self.run_stages()
            timed = self.final_costs if LATENCY in self.config["constraints"] else None
            compared = compare(self.stages, self.run_dir, timed)
            known = evidence(compared, self.run_dir)
            exported = self._export(compared, known)
            folders = [Path(folder) for stage in self.stages if (folder := stage.arguments.get("output_dir"))]
            write_candidates(self.run_dir, list(dict.fromkeys(folders)), lambda: self.final_costs)
            seconds = self.clock.stop()
        except BaseException:
            if self.begun:
                self.clock.save()
            raise
        summary = summarize(self.stages, self.run_dir, self.records, exported, compared, seconds) | known
        summary |= {"command": self.command, "seed": self.config["seed_everything"]}
        write_json(self.run_dir / "summary.json", summary)
        tell(f"{INDENT}drawing report.html")
        write_report(self.run_dir)
        return summary

    def run_stages(self) -> None:
        """Run all stages that are not done yet.

        Raises:
            ConfigError: See ``run``.
            NASError: A stage would fail.
        """
        tell(f"Checking configurations, data and folders of {len(self.stages)} stages in {self.run_dir}")
        self.check()
        for name, text in self._texts.items():
            write_bytes(self.run_dir / f"{name}.yaml", text.encode())
        self.begun = True
        self._check_baselines()
        for stage in self.stages:
            if not stage.compared:
                if stage.test:
                    self._check_found(stage)
                self._stage(stage)
        self._compared()

    def check(self) -> None:
        """Check what the stages need before the first one starts: configurations, data, monitored metrics, folders.

        A stage that has not begun may be given another configuration afterwards.

        Raises:
            ConfigError: See ``run``.
            NASError: A stage would fail.
        """
        if "formats" in self.export_settings:
            choose_formats(self.export_settings["formats"])
        self.check_results()
        if self.config["workers"] > 1:
            check_workers(self.config["workers"], [stage for stage in self.stages if stage.compared])
        self._parse_configs()
        left = {stage.name: stage for stage in self.stages if not stage.compared and not self._done(stage.name)}
        self.images = check_needs(left, self.parsed, self.run_dir)

    def check_results(self) -> None:
        """Check that what is in the run folder is of this pipeline, with the same data and packages.

        Raises:
            ConfigError: The run folder holds something else or a run with another configuration, or what its stages
                have read or written was replaced.
        """
        self._check_folder()
        self._check_configs()
        self._check_records()

    @cached_property
    def _texts(self) -> dict[str, str]:
        """The configuration of every stage as YAML."""
        return {stage.name: yaml.safe_dump(stage.config, sort_keys=False) for stage in self.stages}

    def _check_folder(self) -> None:
        """Refuse a folder of something else, and delete temporary files that a killed pipeline has left in its own."""
        names = [stage.name for stage in self.stages]
        there = sorted(path.name for path in self.run_dir.iterdir() if not path.name.startswith("."))
        others = [name for name in there if name not in names]
        if others and not any(f"{name}.yaml" in others for name in names):
            raise ConfigError(
                f"{self.run_dir} is no run folder of this pipeline: it has {', '.join(others):.200}. Name a new or "
                "empty --run_dir, so that no other results are replaced."
            )
        for folder in (self.run_dir, *(self.run_dir / name for name in names)):
            remove_leftovers(folder)

    def _check_configs(self) -> None:
        """Refuse another configuration of a stage that has begun."""
        for stage in self.stages:
            path = self.run_dir / f"{stage.name}.yaml"
            if path.is_file() and self._begun(stage.name) and self._moved(read_yaml(path)) != stage.config:
                raise ConfigError(
                    f"{path} is of a run with another configuration. Use another --run_dir, or delete "
                    f"{self.run_dir} to start anew."
                )

    def _parse_configs(self) -> None:
        """Check and parse the configuration of every stage."""
        tested = ""
        with tempfile.TemporaryDirectory() as folder:  # a wrong configuration must not stay in the run folder
            for stage in self.stages:
                if not stage.compared or self._given(stage):
                    path = write_bytes(Path(folder) / f"{stage.name}.yaml", self._texts[stage.name].encode())
                    self.parsed[stage.name] = lightning.check_config(path)
                    tested = stage.name if stage.test and not stage.compared else tested
                    continue
                # it differs from the tested stage in seeds and in what is trained only
                parsed = self.parsed[stage.name] = self.parsed[tested].clone()
                parsed.model.init_args.architecture = stage.arguments["architecture"]
                if stage.baseline is not None:
                    if not issubclass(class_of(parsed.model.class_path), TrainTask):
                        raise standard.refuse_task(tested, parsed.model.class_path)
                    parsed.model.init_args.network = stage.arguments["network"]

    def _given(self, stage: Stage) -> bool:
        """Whether a stage is the first training of a baseline that the configuration names."""
        return stage.baseline is not None and stage.baseline.cost is None and stage.repeat == 0

    def _moved(self, config: dict[str, Any]) -> dict[str, Any]:
        """A configuration in the run folder as it would be if the folder had always been where it is now."""
        trainer = config.get("trainer")
        before = str(trainer.get("default_root_dir")) if isinstance(trainer, dict) else ""

        def moved(node: Any) -> Any:
            if isinstance(node, dict):
                return {key: moved(value) for key, value in node.items()}
            if isinstance(node, list):
                return [moved(each) for each in node]
            inside = isinstance(node, str) and (node == before or node.startswith(f"{before}{os.sep}"))
            return f"{self.run_dir}{node[len(before) :]}" if before and inside else node

        found: dict[str, Any] = moved(config)
        return found

    def _check_records(self) -> None:
        """Refuse to go on with other data, artifacts or packages than the stages so far have used."""
        rewritten: list[str] = []
        for stage in self.stages:
            record = read_record(self.run_dir / stage.name)
            if record is not None:
                self.known[stage.name] = record
            if record is not None and record.seconds is None:
                rewritten += [str(self._relative(path)) for path in self._rewrites(stage)]
        begun = {name: record for name, record in self.known.items() if self._begun(name)}
        check_unchanged(begun, self.run_dir, rewritten)

    def _relative(self, path: Path) -> Path:
        return path.relative_to(self.run_dir) if path.is_relative_to(self.run_dir) else path

    def _rewrites(self, stage: Stage) -> list[Path]:
        """Files of earlier stages that a stage adds something to: ``write_to``, and the JSON file beside it."""
        given = stage.arguments.get("write_to")
        return [Path(given), Path(given).with_suffix(".json")] if given else []

    def _begun(self, name: str) -> bool:
        """Whether a stage has left anything that another configuration would not have made."""
        return self._done(name) or self._checkpoint(name).is_file()

    def _done(self, name: str) -> bool:
        return (self.run_dir / name / "done.json").is_file()

    def _checkpoint(self, name: str) -> Path:
        return self.run_dir / name / "checkpoints" / "last.ckpt"

    def _stage(self, stage: Stage) -> None:
        """Run a stage in this process, or go on with it, unless it is done."""
        fit = self._begin(stage)
        if fit is None:
            self.lines.begin(stage.name, "done before")
            return
        self.lines.begin(stage.name, *describe(stage, self.images.get(stage.name), fit.checkpoint.is_file()))
        self._run(fit, stage)
        tell(f"{INDENT}{result(fit.folder, fit.record, fit.test)}")

    def _run(self, fit: Fit, stage: Stage) -> None:
        """Run a fit in this process."""
        self._save_clock()
        fit.run(lambda args: self._command(args, stage.config["trainer"]))
        self._note(stage.name, fit.record)
        self._save_clock()

    def _compared(self) -> None:
        """Run the stages that are there for the comparison, several at the same time if there are workers."""
        compared = [stage for stage in self.stages if stage.compared]
        due = [stage for stage in compared if self._prepared(stage)]
        fits = [(fit, stage) for stage in due if (fit := self._begin(stage)) is not None]
        workers = self.config["workers"]
        if compared:
            tested = read_record(self.run_dir / next(each.name for each in self.stages if each.test))
            self.lines.begin("comparison", *comparison(len(fits), len(due) - len(fits), workers, tested))
        for reason in standard.reasons([stage.baseline for stage in compared if stage.baseline]):
            tell(f"{INDENT}{reason}")
        if workers == 1:
            for place, (fit, stage) in enumerate(fits, 1):
                tell(f"{INDENT}{fit.name} ({place} of {len(fits)})")
                self._run(fit, stage)
                tell(f"{INDENT}{fit.name}: {result(fit.folder, fit.record, fit.test)}")
        elif fits:
            numbered = [replace(fit, place=f"{place} of {len(fits)}") for place, (fit, _) in enumerate(fits, 1)]
            for fit, record in zip(numbered, run_in_workers(numbered, workers), strict=True):
                self._note(fit.name, record)
            self._save_clock()

    def _save_clock(self) -> None:
        if self.clock is not None:
            self.clock.save()

    def _prepared(self, stage: Stage) -> bool:
        """Draw the architecture of a stage, or fit its baseline, and return whether it is to run."""
        if stage.drawn_from is not None:
            self._draw(stage, stage.drawn_from)
        return stage.baseline is None or not self._left_out(stage, stage.baseline)

    def _begin(self, stage: Stage) -> Fit | None:
        """Write the record of a stage that begins; None if it is done."""
        name, checkpoint, record = stage.name, self._checkpoint(stage.name), self.known.get(stage.name)
        if record is not None and record.seconds is not None:
            self._note(name, record)
            return None
        if record is None or not checkpoint.is_file():
            fresh = Record.new(inputs_of(self.parsed[name], self.run_dir))
            record = fresh if record is None else replace(fresh, run=record.run)
            record.begin(self.run_dir / name)
        output_dir = stage.arguments.get("output_dir")
        written = Path(output_dir) if output_dir else None
        rewrites = self._rewrites(stage)
        return Fit(name, self.run_dir, record, stage.test, written, rewrites, self.config["imports"])

    def _note(self, name: str, record: Record) -> None:
        """Keep what a stage took, for the summary."""
        self.records.append({"name": name, "seconds": record.seconds, "resumed": record.resumed})

    def _command(self, args: list[str], trainer: Mapping[str, Any]) -> None:
        """Run one of Lightning's commands, in this process where it needs no other one."""
        if in_one_process(trainer):
            lightning.run(args)
            return
        self.child = subprocess.Popen([sys.executable, "-m", "lightning_nas", *args])
        try:
            code = self.child.wait()
        finally:
            self.child = None
        if self.asked or code == InterruptedTrainingError.exit_code:  # also where it was not yet able to answer
            raise InterruptedTrainingError(f"'lightning-nas {' '.join(args)}' was asked to stop and did.")
        if code:
            raise ConfigError(f"'lightning-nas {' '.join(args)}' failed; its own message is above.")

    def pass_on(self, number: int) -> bool:
        """Pass a signal on to the process of a stage.

        Args:
            number: The signal.

        Returns:
            Whether there is such a process. A training in this process answers by itself, see
            ``lightning_nas.callbacks.preemption``.
        """
        if self.child is None:
            return False
        self.asked = True
        self.child.send_signal(number)
        return True

    def _draw(self, stage: Stage, source: Path) -> None:
        """Write the random architecture that a stage trains: uniform over the space of the found one."""
        path = Path(stage.arguments["architecture"])
        if path.is_file():
            return
        seed = self.config["seed_everything"]
        space = self._limited(build_space(load_architecture(source).space))
        generator = torch.Generator().manual_seed(seed)
        drawn = [space.sample(generator) for _ in range(stage.draw + 1)][-1]
        among = "architectures within the constraints" if self.config["constraints"] else "the whole space"
        drawn.save(path, drawn=f"uniformly from {among}", seed=seed, draw=stage.draw)

    def _check_baselines(self) -> None:
        """Build those baselines that the configuration names, before the first stage starts, and run them once.

        Raises:
            NASError: One of them cannot be built, or does not fit images and classes.
        """
        for stage in self.stages:
            baseline = stage.baseline
            if baseline is None or not self._given(stage) or standard.is_described(baseline):
                continue
            model = self.parsed[stage.name].clone().model
            for key in ("num_classes", "image_shape"):
                model.init_args[key] = self.final_costs.size[key]
            try:
                network = build(LightningModule, model).network
            except NASError as error:
                error.args = (f"Stage {stage.name}: {error}",)
                raise
            standard.describe(baseline, network, self.final_costs, self.config["constraints"])

    def _left_out(self, stage: Stage, baseline: Baseline) -> bool:
        """Fit a baseline to the found network unless that is done, and return whether there is no such network."""
        if not baseline.path.is_file():
            tested = next(each.name for each in self.stages if each.test)
            found = size(trained_network(self._checkpoint(tested))[1])
            others = standard.known_before([each.baseline for each in self.stages if each.baseline])
            standard.fit(baseline, found, self.final_costs, self.config["constraints"], others)
        return standard.is_left_out(baseline)

    def _limited(self, space: SearchSpace) -> SearchSpace:
        """A space within the constraints of the pipeline, if there are any."""
        constraints = self.config["constraints"]
        return ConstrainedSpace(space, self.final_costs.costs, constraints) if constraints else space

    @cached_property
    def final_costs(self) -> NetworkCosts:
        """The costs of the network of the final training."""
        config = self.parsed[next(stage.name for stage in self.stages if stage.test)]
        given = config.model.init_args
        size = {key: given[key] for key in ("channels", "cells") if key in given}
        return NetworkCosts(**size, data=build(LightningDataModule, config.data))

    def _check_found(self, stage: Stage) -> None:
        """Refuse to train a found architecture that exceeds the constraints."""
        path = stage.arguments.get("architecture")
        if self.config["constraints"] and path is not None:
            found = load_architecture(Path(path))
            self._limited(build_space(found.space)).check(found)

    def _export(self, compared: Compared, known: Mapping[str, Any]) -> dict[str, Any]:
        """Write the trained network as files, with a model card that compares it."""
        self.lines.begin(EXPORT, "network, model card and report")
        start = time.perf_counter()
        name = next(stage.name for stage in self.stages if stage.test)
        figures = {"test_accuracy": tested_accuracy(self.run_dir / name)}
        exported = export_checkpoint(
            self._checkpoint(name),
            self.run_dir,
            figures=figures,
            evidence={key: known[key] for key in ("test_images", "comparisons")},
            compared=compared.for_card(),
            data=build(LightningDataModule, self.parsed[name].data),
            **self.export_settings,
        )
        for line in measured_lines(exported["measured"]):
            tell(f"{INDENT}{line}")
        self.records.append({"name": EXPORT, "seconds": round(time.perf_counter() - start, 2), "resumed": False})
        return exported
