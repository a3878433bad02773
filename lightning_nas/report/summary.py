"""The key figures of a pipeline, read from ``summary.json`` and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import read_json
from lightning_nas.report.selection import is_decided

REPAIR = "Run the pipeline again on this folder (lightning-nas pipeline --run_dir ...): it writes what is missing."
"""What repairs a broken summary, for error messages."""


@dataclass(frozen=True)
class Summary:
    """The content of ``summary.json``.

    Attributes:
        texts: ``command``, ``date``, ``genotype``, ``hardware``, ``run_dir`` and ``versions``; empty where unknown.
        seed: Seed of the run.
        parameters: Parameters of the found network.
        macs: Multiply-accumulate operations of the found network per image.
        test_accuracy: Test accuracy of the found network as a fraction; the mean over seeds where there are several.
        test_accuracies: Its test accuracy with every seed.
        compared_stages: Names of the stages that train for the comparison alone.
        stages: Name and seconds of every stage.
        seconds_total: Wall-clock seconds of the run, all its parts together where it was interrupted.
        proxy_images: Distilled images that the search used; None without distillation.
        source_images: Images that were distilled; None without distillation.
        latency_ms: Milliseconds of a forward pass of the found network; None if they were not measured.
        random_test_accuracy: Mean test accuracy of random networks; None if there were none.
        random_test_accuracy_std: Its standard deviation; None for fewer than two random networks.
        random_test_accuracies: Test accuracy of every random network; means over seeds where there are several.
        random_test_accuracies_by_seed: Test accuracy of every random network with every seed.
        random_parameters: Parameters of every random network.
        random_macs: Multiply-accumulates of every random network.
        random_latencies_ms: Milliseconds of every random network; empty if they were not measured.
        class_names: Names of the classes by label; empty if they are not known.
        test_images: Number of test images; None if results by image were not kept.
        comparisons: The found network against the best random and the best standard one: ``kind`` (``random`` or
            ``standard``), ``label``, ``test_accuracy``, and by test images ``better``, ``worse``, ``ties``, ``p`` and
            ``verdict`` (``better``, ``worse`` or ``equal``), which are None where results by image were not kept.
        baselines: Standard networks: ``name``, ``label``, ``test_accuracy``, ``test_accuracies`` (by seed),
            ``parameters``, ``macs`` and ``latency_ms`` (None if it was not measured).
        left_out: Label and reason of standard networks that could not be had.
        selection: Selection errors as ``metrics.selection`` describes them; None if they were not measured.
        fidelity: Rank fidelity of the proxy as its task writes it; None if it was not measured.
        export_difference: Largest difference between the outputs of the exported and the trained network.
        preprocessing_difference: Largest difference of a pixel between the preprocessing of the exported files and that
            of the data module, in 255 levels.
        peak_memory_mb: Peak memory of the run in MB.
    """

    texts: Mapping[str, str]
    seed: float
    parameters: float
    macs: float
    test_accuracy: float
    test_accuracies: list[float]
    compared_stages: list[str]
    stages: list[tuple[str, float]]
    seconds_total: float
    proxy_images: float | None
    source_images: float | None
    latency_ms: float | None
    random_test_accuracy: float | None
    random_test_accuracy_std: float | None
    random_test_accuracies: list[float]
    random_test_accuracies_by_seed: list[list[float]]
    random_parameters: list[float]
    random_macs: list[float]
    random_latencies_ms: list[float]
    class_names: list[str]
    test_images: int | None
    comparisons: list[Mapping[str, Any]]
    baselines: list[Mapping[str, Any]]
    left_out: list[tuple[str, str]]
    selection: Mapping[str, Any] | None
    fidelity: Mapping[str, Any] | None
    export_difference: float | None
    preprocessing_difference: float | None
    peak_memory_mb: float | None

    @property
    def random_names(self) -> list[str]:
        """Names of the first trainings of random networks."""
        return [f"random_{i}" for i in range(len(self.random_test_accuracies))]

    @property
    def trained(self) -> str:
        """Name of the stage that trained the found network: the last one that is not for the comparison alone."""
        names = [name for name, _ in self.stages if name not in (*self.compared_stages, "export")]
        return names[-1] if names else ""

    @classmethod
    def load(cls, path: Path) -> "Summary":
        """Read and check a summary.

        Raises:
            ArtifactError: The file is missing or broken, or an entry is missing or of another kind.
        """
        return cls.parse(read_json(path, repair=REPAIR), path)

    @classmethod
    def parse(cls, content: Mapping[str, Any], path: Path) -> "Summary":
        """Check the content of a summary.

        Args:
            content: The content of ``summary.json``.
            path: The file, for messages.

        Raises:
            ArtifactError: An entry is missing or of another kind.
        """
        reader = _Reader(path, content)
        stages = reader.stages()
        total = reader.optional_number("seconds_total")
        return cls(
            texts={key: reader.text(key) for key in ("command", "date", "genotype", "hardware", "run_dir", "versions")},
            **{key: reader.number(key) for key in ("seed", "parameters", "macs", "test_accuracy")},
            test_accuracies=reader.numbers("test_accuracies"),
            compared_stages=reader.names("compared_stages"),
            stages=stages,
            seconds_total=sum(seconds for _, seconds in stages) if total is None else total,
            proxy_images=reader.optional_number("proxy_images"),
            source_images=reader.optional_number("source_images"),
            latency_ms=reader.optional_number("latency_ms"),
            random_test_accuracy=reader.optional_number("random_test_accuracy"),
            random_test_accuracy_std=reader.optional_number("random_test_accuracy_std"),
            random_test_accuracies=reader.numbers("random_test_accuracies"),
            random_test_accuracies_by_seed=reader.lists("random_test_accuracies_by_seed"),
            random_parameters=reader.numbers("random_parameters"),
            random_macs=reader.numbers("random_macs"),
            random_latencies_ms=reader.numbers("random_latencies_ms"),
            class_names=reader.names("class_names"),
            test_images=reader.count("test_images"),
            comparisons=reader.comparisons(),
            baselines=reader.baselines(),
            left_out=reader.left_out(),
            selection=reader.selection(),
            fidelity=reader.fidelity(),
            export_difference=reader.optional_number("export_difference"),
            preprocessing_difference=reader.optional_number("preprocessing_difference"),
            peak_memory_mb=reader.optional_number("peak_memory_mb"),
        )


@dataclass(frozen=True)
class _Reader:
    """Checked access to the entries of a summary; every method raises ``ArtifactError`` for a wrong entry."""

    path: Path
    content: Mapping[str, Any]

    def entry(self, key: str, kinds: tuple[type, ...], expected: str, needed: bool = False) -> Any:
        value = self.content.get(key)
        if (value is None and not needed) or (isinstance(value, kinds) and not isinstance(value, bool)):
            return value
        raise ArtifactError(f"{self.path}: '{key}' is {value!r}, but {expected} was expected. {REPAIR}")

    def number(self, key: str) -> float:
        return float(self.entry(key, (int, float), "a number", needed=True))

    def optional_number(self, key: str) -> float | None:
        value = self.entry(key, (int, float), "a number")
        return None if value is None else float(value)

    def count(self, key: str) -> int | None:
        value = self.entry(key, (int,), "a positive integer")
        if value is not None and value < 1:
            raise ArtifactError(f"{self.path}: '{key}' is {value!r}, but a positive integer was expected. {REPAIR}")
        return None if value is None else int(value)

    def numbers(self, key: str) -> list[float]:
        values = self.entry(key, (list,), "a list of numbers") or []
        if not all(isinstance(value, (int, float)) for value in values):
            raise ArtifactError(f"{self.path}: '{key}' contains something other than numbers. {REPAIR}")
        return [float(value) for value in values]

    def lists(self, key: str) -> list[list[float]]:
        lists = self.entry(key, (list,), "a list of lists of numbers") or []
        return [_Reader(self.path, {f"{key}[{i}]": each}).numbers(f"{key}[{i}]") for i, each in enumerate(lists)]

    def names(self, key: str) -> list[str]:
        return [str(name) for name in self.entry(key, (list,), "a list of names") or []]

    def text(self, key: str) -> str:
        """Return any entry as text: a dictionary as ``name value`` pairs."""
        value = self.content.get(key)
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {each}" for name, each in value.items())
        return "" if value is None else str(value)

    def stages(self) -> list[tuple[str, float]]:
        stages = self.entry("stages", (list,), "a list of stages", needed=True)
        try:
            return [(str(stage["name"]), float(stage["seconds"])) for stage in stages]
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(f"{self.path}: a stage lacks 'name' or 'seconds': {stages!r:.200}. {REPAIR}") from None

    def baselines(self) -> list[Mapping[str, Any]]:
        found = self.entry("baselines", (list,), "a list of networks") or []
        try:
            return [
                {
                    **{name: str(each[name]) for name in ("name", "label")},
                    **{name: float(each[name]) for name in ("test_accuracy", "parameters", "macs")},
                    "test_accuracies": [float(accuracy) for accuracy in each["test_accuracies"]],
                    "latency_ms": None if (latency := each.get("latency_ms")) is None else float(latency),
                }
                for each in found
            ]
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(f"{self.path}: 'baselines' is not what a pipeline writes. {REPAIR}") from None

    def comparisons(self) -> list[Mapping[str, Any]]:
        found = self.entry("comparisons", (list,), "a list of comparisons") or []
        names = ("better", "worse", "ties", "p")
        try:
            for each in found:
                numbers = [each[name] for name in names]
                known = all(isinstance(value, int | float) for value in numbers)
                if not known and (numbers != [None] * 4 or each["verdict"] is not None):
                    raise TypeError
                if each["verdict"] not in (None, "better", "worse", "equal") or (known and each["verdict"] is None):
                    raise TypeError
            texts = [{name: str(each[name]) for name in ("kind", "label")} for each in found]
            return [
                {**each, **text, "test_accuracy": float(each["test_accuracy"])}
                for each, text in zip(found, texts, strict=True)
            ]
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(f"{self.path}: 'comparisons' is not what a pipeline writes. {REPAIR}") from None

    def left_out(self) -> list[tuple[str, str]]:
        found = self.entry("baselines_left_out", (list,), "a list of networks") or []
        try:
            return [(str(each["label"]), str(each["reason"])) for each in found]
        except (KeyError, TypeError):
            raise ArtifactError(f"{self.path}: 'baselines_left_out' is not what a pipeline writes. {REPAIR}") from None

    def selection(self) -> Mapping[str, Any] | None:
        errors = self.entry("selection_errors", (dict,), "an object")
        if errors is None:
            return None
        try:
            for kind in ("edges", "operations"):
                rate, wrong, count = (errors[kind][key] for key in ("rate", "errors", "count"))
                numbers = [wrong, count, 0 if rate is None else rate]
                if is_decided(errors[kind]):
                    numbers += [errors[kind][key] for key in ("decided", "undecided", "ties", "images")]
                    numbers += [0 if errors[kind][key] is None else errors[kind][key] for key in ("low", "high")]
                if not all(isinstance(v, (int, float)) for v in numbers):
                    raise TypeError
            details = [dict(entry) for entry in errors.get("details") or []]
            if not all(isinstance(entry.get(key), list) for entry in details for key in ("chosen", "reference")):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(f"{self.path}: 'selection_errors' is not what a search writes. {REPAIR}") from None
        return {**errors, "details": details}

    def fidelity(self) -> Mapping[str, Any] | None:
        found = self.entry("fidelity", (dict,), "an object")
        if found is None:
            return None
        try:
            if not isinstance(found["objective"], str) or not isinstance(found["informative_only"], bool):
                raise TypeError
            low, high = found["interval"]
            optional = (found[key] for key in ("kendall_tau", "threshold"))
            needed = (found[key] for key in ("regret", "regret_points", "best_truth", "mean_truth", "architectures"))
            numbers = [*needed, *(value for value in (low, high, *optional) if value is not None)]
            if not all(isinstance(value, int | float) for value in numbers) or (low is None) != (high is None):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(f"{self.path}: 'fidelity' is not what its stage writes. {REPAIR}") from None
        tau, threshold = found["kendall_tau"], found["threshold"]
        passed = threshold is None or (tau is not None and tau >= threshold)
        return {**found, "interval": (low, high), "passed": passed}
