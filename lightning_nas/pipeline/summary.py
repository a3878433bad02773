"""The figures of a pipeline's run, for ``summary.json``."""

import csv
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lightning_nas.cli.exports import size, trained_network
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.files.artifacts import read_json
from lightning_nas.metrics.memory import peak_memory
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.metrics.paired import wilson_interval
from lightning_nas.pipeline.baselines import LATENCY, known
from lightning_nas.pipeline.evidence import compare_on_images, read_correct
from lightning_nas.pipeline.stages import Stage
from lightning_nas.spaces.artifact import architecture_from_dict, build_space, load_architecture


def tested_accuracy(folder: Path) -> float:
    """The test accuracy that a stage logged last, as a fraction.

    Args:
        folder: Folder of the stage.

    Raises:
        ArtifactError: A file of the log is damaged.
        ConfigError: None was logged.
    """
    found = None
    for path in sorted(folder.glob("version_*/metrics.csv"), key=lambda p: p.stat().st_mtime):
        try:
            with path.open(newline="") as file:
                logged = [row["test/accuracy"] for row in csv.DictReader(file) if row.get("test/accuracy")]
            found = float(logged[-1]) if logged else found
            if found is not None and not 0 <= found <= 1:
                raise ValueError(f"its test accuracy is {found}")
        except (csv.Error, ValueError) as error:
            raise ArtifactError(f"{path} is damaged ({error}). Delete {folder} to run the stage again.") from None
    if found is None:
        raise ConfigError(f"No test accuracy was logged under {folder}. Delete that folder to run the stage again.")
    return found


@dataclass(frozen=True)
class TrainedNetwork:
    """A network that was trained and tested.

    Attributes:
        name: Name of its first training.
        label: What it is, for people.
        stages: Names of its trainings, one per seed.
        accuracies: Its test accuracy with every seed, as fractions.
        parameters: Number of parameters.
        macs: Multiply-accumulates for one image.
        latency_ms: Milliseconds of a forward pass of one image; None where they were not measured.
    """

    name: str
    label: str
    stages: list[str]
    accuracies: list[float]
    parameters: int
    macs: int
    latency_ms: float | None = None

    @property
    def accuracy(self) -> float:
        """The mean over seeds."""
        return statistics.mean(self.accuracies)

    def to_dict(self) -> dict[str, Any]:
        """Return the network as JSON values."""
        return {
            "name": self.name,
            "label": self.label,
            "test_accuracy": self.accuracy,
            "test_accuracies": self.accuracies,
            "parameters": self.parameters,
            "macs": self.macs,
            **({} if self.latency_ms is None else {"latency_ms": self.latency_ms}),
        }


@dataclass(frozen=True)
class Compared:
    """The networks of a run, all trained and tested alike.

    Attributes:
        found: The found network.
        randoms: Networks of random architectures.
        baselines: Standard networks.
        left_out: Name, label and reason of standard networks that could not be had.
        trainings: Names of the stages that train for the comparison alone.
    """

    found: TrainedNetwork
    randoms: list[TrainedNetwork]
    baselines: list[TrainedNetwork]
    left_out: list[dict[str, str]]
    trainings: list[str]

    def for_card(self) -> list[dict[str, Any]]:
        """All networks, the found one first."""
        return [each.to_dict() for each in (self.found, *self.randoms, *self.baselines)]


def compare(stages: Sequence[Stage], run_dir: Path, timed: NetworkCosts | None = None) -> Compared:
    """Collect the test accuracies and costs of all networks of a finished run.

    Args:
        stages: Stages of the pipeline, all done but those of baselines that were left out.
        run_dir: Run folder.
        timed: Measures the latency of networks of architectures; None leaves it out.

    Raises:
        ConfigError: The test of a network logged no accuracy.
        ArtifactError: A file of a stage is broken.
    """
    by_name: dict[str, list[Stage]] = {}
    left_out = []
    for stage in stages:
        if stage.test:
            drawn, given = f"random_{stage.draw}" if stage.drawn_from else "", stage.baseline
            by_name.setdefault(drawn or (given.name if given else ""), []).append(stage)
    founds, randoms, baselines, trainings = [], [], [], []
    for name, repeats in by_name.items():
        about = {} if repeats[0].baseline is None else known(repeats[0].baseline)
        if about.get("skipped"):
            left_out.append({"name": name, "label": about["label"], "reason": about["skipped"]})
            continue
        trainings += [stage.name for stage in repeats if stage.compared]
        names = [stage.name for stage in repeats]
        accuracies = [tested_accuracy(run_dir / each) for each in names]
        if repeats[0].baseline is not None:
            baselines.append(
                TrainedNetwork(
                    *(name, about["label"], names, accuracies, about["parameters"], about["macs"]),
                    latency_ms=about.get(LATENCY),
                )
            )
            continue
        kept = trained_network(run_dir / repeats[0].name / "checkpoints" / "last.ckpt")[1]
        cost: dict[str, Any] = size(kept)
        if timed is not None:
            cost[LATENCY] = timed.costs(architecture_from_dict(kept["architecture"]))[LATENCY]
        if name:
            randoms.append(TrainedNetwork(name, f"random architecture {repeats[0].draw}", names, accuracies, **cost))
        else:
            founds.append(TrainedNetwork(names[0], "found architecture", names, accuracies, **cost))
    return Compared(founds[0], randoms, baselines, left_out, trainings)


def summarize(
    stages: Sequence[Stage],
    run_dir: Path,
    records: Sequence[Mapping[str, Any]],
    exported: Mapping[str, Any],
    compared: Compared,
    seconds: float,
) -> dict[str, Any]:
    """All figures of a finished run.

    What stages found is read from the artifacts in their output folders, whatever the stages are called.

    Args:
        stages: Stages of the pipeline, all done.
        run_dir: Run folder.
        records: Name and seconds of every stage, and whether it was resumed.
        exported: What ``export_checkpoint`` returned.
        compared: What ``compare`` returned.
        seconds: Wall-clock seconds of the run.

    Raises:
        ArtifactError: A file of a stage is broken.
    """
    trained = next(stage for stage in stages if stage.test)
    randoms = [each.accuracy for each in compared.randoms]
    peak = peak_memory(children=True)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return {
        "run_dir": str(run_dir),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs{gpu}",
        "versions": {p: version(p) for p in ("lightning_nas", "torch", "lightning", "torchvision")},
        "stages": list(records),
        "seconds": {each["name"]: each["seconds"] for each in records},
        "seconds_total": round(seconds, 2),
        **_found(stages, trained),
        "parameters": exported["parameters"],
        "macs": exported["macs"],
        "latency_ms": compared.found.latency_ms,
        "compared_stages": compared.trainings,
        "test_accuracy": compared.found.accuracy,
        "test_accuracies": compared.found.accuracies,
        "random_test_accuracy": statistics.mean(randoms) if randoms else None,
        "random_test_accuracy_std": statistics.stdev(randoms) if len(randoms) > 1 else None,
        "random_test_accuracies": randoms,
        "random_test_accuracies_by_seed": [each.accuracies for each in compared.randoms],
        "random_parameters": [each.parameters for each in compared.randoms],
        "random_macs": [each.macs for each in compared.randoms],
        "random_latencies_ms": [each.latency_ms for each in compared.randoms if each.latency_ms is not None],
        "baselines": [each.to_dict() for each in compared.baselines],
        "baselines_left_out": compared.left_out,
        "export_difference": exported["difference"],
        "export_differences": {Path(f["path"]).name: f["difference"] for f in exported["files"]},
        "preprocessing_difference": exported["measured"].levels,
        "export_measured": asdict(exported["measured"]),
        "peak_memory_mb": None if peak is None else round(peak / 2**20, 1),
    }


def evidence(compared: Compared, run_dir: Path) -> dict[str, Any]:
    """Measure how sure the result of a finished run is.

    Args:
        compared: What ``compare`` returned.
        run_dir: Run folder.

    Returns:
        Number of test images, interval of the test accuracy, and the found network against the best random and the
        best standard one, for the summary.

    Raises:
        ArtifactError: A file of a stage is broken.
    """
    correct = read_correct(run_dir, compared.found.stages)
    count = 0 if correct is None else len(correct[1])
    best = {
        kind: max(networks, key=lambda each: each.accuracy)
        for kind, networks in (("random", compared.randoms), ("standard", compared.baselines))
        if networks
    }
    return {
        "class_names": trained_network(run_dir / compared.found.name / "checkpoints" / "last.ckpt")[1]["class_names"],
        "test_images": count or None,
        "test_interval": list(wilson_interval(compared.found.accuracy, count)) if count else None,
        "comparisons": [
            {
                **{"kind": kind, "name": each.name, "label": each.label, "test_accuracy": each.accuracy},
                **compare_on_images(run_dir, compared.found.stages, each.stages),
            }
            for kind, each in best.items()
        ],
    }


def _found(stages: Sequence[Stage], trained: Stage) -> dict[str, Any]:
    """What distillation, the check of the proxy and the search left in their output folders."""
    found = {
        name: _artifacts(stages, f"{name}.json", f"Run the stage that writes {name}.json again.")
        for name in ("proxy", "fidelity", "architecture")
    }
    proxy, fidelity = ({**content[0]} if content else {} for content in (found["proxy"], found["fidelity"]))
    # a search says how it chose; what refines its result does not
    provenances = [content["provenance"] for content in found["architecture"]]
    searched: dict[str, Any] = next((each for each in provenances if "selection_errors" in each), {})
    architecture = load_architecture(Path(trained.arguments["architecture"]))
    genotype = build_space(architecture.space).text(architecture)
    return {
        "proxy_images": proxy.get("proxy_images"),
        "source_images": proxy.get("source_images"),
        "fidelity": {k: v for k, v in fidelity.items() if k not in ("schema", "lightning_nas", "results", "failures")}
        or None,
        "genotype": genotype,
        "searched_genotype": searched.get("text", genotype),
        "selection_errors": searched.get("selection_errors"),
    }


def _artifacts(stages: Sequence[Stage], name: str, repair: str) -> list[dict[str, Any]]:
    """The contents of all files of a name in the output folders of stages, each once."""
    folders = dict.fromkeys(stage.arguments.get("output_dir") for stage in stages)
    paths = [Path(folder) / name for folder in folders if folder is not None]
    return [read_json(path, repair=repair) for path in paths if path.is_file()]
