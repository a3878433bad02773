"""What a report shows, read from the run folder and checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import read_json, read_tensors
from lightning_nas.report.curves import Point, read_curves
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.spaces.base import DifferentiableSpace, Graph, SearchSpace

_REPAIR = "Run the pipeline again on this folder (lightning-nas pipeline --run_dir ...): it writes what is missing."


@dataclass(frozen=True)
class Summary:
    """``summary.json`` with typed access.

    Raises:
        ArtifactError: On access, where an entry is missing that must be there, or is of another kind.
    """

    path: Path
    content: Mapping[str, Any]

    def _checked(self, key: str, kinds: tuple[type, ...], expected: str, needed: bool) -> Any:
        value = self.content.get(key)
        if (value is None and not needed) or (isinstance(value, kinds) and not isinstance(value, bool)):
            return value
        raise ArtifactError(f"{self.path}: '{key}' is {value!r}, but {expected} was expected. {_REPAIR}")

    def number(self, key: str) -> float:
        """A number that must be there."""
        return float(self._checked(key, (int, float), "a number", True))

    def optional_number(self, key: str) -> float | None:
        """A number, or None."""
        value = self._checked(key, (int, float), "a number", False)
        return None if value is None else float(value)

    def numbers(self, key: str) -> list[float]:
        """A list of numbers; empty where it is missing."""
        values = self._checked(key, (list,), "a list of numbers", False) or []
        if not all(isinstance(value, (int, float)) for value in values):
            raise ArtifactError(f"{self.path}: '{key}' holds other things than numbers. {_REPAIR}")
        return [float(value) for value in values]

    def text(self, key: str) -> str:
        """Anything as text: lists joined by blanks, dictionaries as ``name value`` pairs; empty where missing."""
        value = self.content.get(key)
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {each}" for name, each in value.items())
        if isinstance(value, list):
            return " ".join(str(each) for each in value)
        return "" if value is None else str(value)

    def stages(self) -> list[tuple[str, float]]:
        """Name and seconds of every stage."""
        stages = self._checked("stages", (list,), "a list of stages", True)
        try:
            return [(str(stage["name"]), float(stage["seconds"])) for stage in stages]
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(f"{self.path}: a stage lacks 'name' or 'seconds': {stages!r:.200}. {_REPAIR}") from None

    def selection(self) -> Mapping[str, Any] | None:
        """The selection errors with rates, counts and details checked, or None."""
        errors = self._checked("selection_errors", (dict,), "an object", False)
        if errors is None:
            return None
        try:
            for kind in ("edges", "operations"):
                rate, wrong, count = (errors[kind][key] for key in ("rate", "errors", "count"))
                if not all(isinstance(v, (int, float)) for v in (wrong, count, 0 if rate is None else rate)):
                    raise TypeError
            details = [dict(entry) for entry in errors.get("details") or []]
            if not all(isinstance(entry.get(key), list) for entry in details for key in ("chosen", "reference")):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(f"{self.path}: 'selection_errors' is not what a search writes. {_REPAIR}") from None
        return {**errors, "details": details}

    def fidelity(self) -> Mapping[str, Any] | None:
        """How far the proxy's ranks can be trusted, with its figures checked, or None."""
        found = self._checked("fidelity", (dict,), "an object", False)
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
            raise ArtifactError(f"{self.path}: 'fidelity' is not what its stage writes. {_REPAIR}") from None
        return {**found, "interval": (low, high)}


@dataclass
class Run:
    """All that a report shows.

    Attributes:
        folder: The run folder.
        summary: Key figures.
        genotype: The found architecture as text.
        graphs: Its cells.
        operations: Names of the alphas' columns; empty where the space has none.
        rows: ``(node, source)`` names of the alphas' rows, by row.
        class_names: Names by label; empty where unknown.
        alphas: ``(epochs, edges, operations)`` weights by cell type.
        pictures: ``proxy`` and ``real`` images ``(classes, k, channels, height, width)``.
        ranked: ``(proxy, truth)`` of every architecture that the proxy was checked with; empty where it was not.
        curves: What every stage logged.
        missing: Why an optional part is missing, by part.
    """

    folder: Path
    summary: Summary
    genotype: str
    graphs: list[Graph]
    operations: Sequence[str] = ()
    rows: list[tuple[str, str]] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    alphas: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    ranked: list[tuple[float, float]] = field(default_factory=list)
    curves: dict[str, dict[str, list[Point]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        ArtifactError: ``summary.json`` or ``architecture.json`` is missing or broken.
        ArchitectureError: ``architecture.json`` holds no point of its space.
    """
    path = folder / "summary.json"
    summary = Summary(path, read_json(path, repair=_REPAIR))
    for key in ("seed", "parameters", "macs", "test_accuracy"):
        summary.number(key)
    architecture = load_architecture(folder / "architecture.json")
    space = build_space(architecture.space)
    run = Run(folder, summary, summary.text("genotype") or space.text(architecture), space.graphs(architecture))
    if isinstance(space, DifferentiableSpace):
        run.operations = space.operations
    run.rows = _row_names(space, run.graphs)
    run.class_names = _class_names(folder)
    searched = "search/alphas.safetensors"  # where another stage came after the search
    run.alphas = _optional(run, searched if (folder / searched).is_file() else "alphas.safetensors", 3)
    run.pictures = _optional(run, "pictures.safetensors", 5)
    if summary.fidelity() is not None:
        run.ranked = _ranked(run)
    order = {name: i for i, (name, _) in enumerate(summary.stages())}
    names = {path.relative_to(folder).parts[0] for path in folder.glob("*/**/metrics.csv")}
    for name in sorted(names, key=lambda name: (order.get(name, len(order)), name)):
        run.curves[name] = read_curves(folder / name)
    return run


def _optional(run: Run, name: str, dimensions: int) -> dict[str, Tensor]:
    """Tensors of a file that may be missing; why it cannot be used goes to ``run.missing``."""
    if not (run.folder / name).is_file():
        run.missing[name] = f"The run folder has no {name}."
        return {}
    try:
        tensors = read_tensors(run.folder / name, repair="")
    except ArtifactError:
        run.missing[name] = f"{name} is no complete safetensors file."
        return {}
    kept = {key: t.float() for key, t in sorted(tensors.items()) if t.ndim == dimensions and t.numel()}
    if len(kept) < len(tensors) or not kept:
        run.missing[name] = f"{name} holds tensors of another shape than {dimensions} filled dimensions."
    return kept


def _ranked(run: Run) -> list[tuple[float, float]]:
    """Scores and truths of the architectures; why there are none goes to ``run.missing``."""
    try:
        results = read_json(run.folder / "fidelity.json", repair="")["results"]
        points = [(float(row["proxy"]), float(row["truth"])) for row in results]
        if all(math.isfinite(value) for point in points for value in point):
            return points
    except (ArtifactError, KeyError, TypeError, ValueError):
        pass
    run.missing["fidelity.json"] = "The run folder has no usable fidelity.json with every architecture's results."
    return []


def _class_names(folder: Path) -> list[str]:
    """Names that the distillation noted; none where there was no distillation."""
    try:
        names = read_json(folder / "proxy.json", repair="").get("class_names")
    except ArtifactError:
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _row_names(space: SearchSpace, graphs: Sequence[Graph]) -> list[tuple[str, str]]:
    """Node and source of every row of the alphas, where row j of a node is the edge from state j."""
    if not isinstance(space, DifferentiableSpace) or not graphs:
        return []
    names = graphs[0].nodes
    inputs = space.nodes[0].stop
    if len(names) < inputs + len(space.nodes):
        return []
    return [
        (names[inputs + node], names[state])
        for node, edges in enumerate(space.nodes)
        for state in range(edges.stop - edges.start)
    ]
