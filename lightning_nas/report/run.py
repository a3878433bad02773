"""The run folder of a pipeline, read and checked for its report."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import read_json, read_tensors
from lightning_nas.report.curves import Point, read_curves
from lightning_nas.report.draw import edge_ends
from lightning_nas.report.front import Front
from lightning_nas.report.summary import Summary
from lightning_nas.report.tested import IMAGES, ByImage, read_tested
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.graph import Graph


@dataclass
class Run:
    """The content of a run folder.

    Attributes:
        folder: The run folder.
        summary: Its key figures.
        genotype: The found architecture as text.
        graphs: The cells of the found architecture.
        operations: Names of the columns of the alphas; empty if the space has no alphas.
        rows: ``(source, node)`` of every row of the alphas; empty if the space has no alphas.
        class_names: Names of the classes by label; empty if they are not known.
        tested: Results of the found network by test image, or why there are none.
        candidates: Candidates of the search by queries with their costs; None if there were none.
        alphas: Mixture weights ``(epochs, edges, operations)`` by cell type.
        pictures: ``proxy`` and ``real`` images ``(classes, k, channels, height, width)``.
        ranked: Score on the proxy and reference accuracy of every architecture that the proxy was checked with.
        curves: Logged values of every stage, by stage and metric.
        missing: Why an optional file cannot be used, by its name.
    """

    folder: Path
    summary: Summary
    genotype: str
    graphs: list[Graph]
    operations: Sequence[str] = ()
    rows: list[tuple[str, str]] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    tested: ByImage | str = ""
    candidates: Front | None = None
    alphas: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    ranked: list[tuple[float, float]] = field(default_factory=list)
    curves: dict[str, dict[str, list[Point]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """Read the run folder of a pipeline.

    Raises:
        ArtifactError: ``summary.json`` or ``architecture.json`` is missing or broken.
        ArchitectureError: The architecture does not belong to its space.
    """
    summary = Summary.load(folder / "summary.json")
    architecture = load_architecture(folder / "architecture.json")
    space = build_space(architecture.space)
    run = Run(folder, summary, summary.texts["genotype"] or space.text(architecture), space.graphs(architecture))
    if isinstance(space, DifferentiableSpace):
        run.operations = space.operations
        run.rows = edge_ends(space, run.graphs[0]) if run.graphs else []
    run.class_names = summary.class_names or _class_names(folder)
    run.tested = read_tested(folder / summary.trained / IMAGES, run.class_names)
    run.candidates = next((Front.load(path) for path in _fronts(folder) if path.is_file()), None)
    nested = sorted(folder.glob("*/alphas.safetensors"))  # where another stage followed the search
    run.alphas = _optional(run, nested[0] if nested else folder / "alphas.safetensors", 3)
    run.pictures = _optional(run, folder / "pictures.safetensors", 5)
    if summary.fidelity is not None:
        run.ranked = _ranked(run)
    order = {name: i for i, (name, _) in enumerate(summary.stages)}
    names = {path.relative_to(folder).parts[0] for path in folder.glob("*/**/metrics.csv")}
    for name in sorted(names, key=lambda name: (order.get(name, len(order)), name)):
        run.curves[name] = read_curves(folder / name)
    return run


def _fronts(folder: Path) -> list[Path]:
    """Files that may have the candidates of a search by queries, the most telling first."""
    return [folder / "candidates.json", folder / "front.json", *sorted(folder.glob("*/front.json"))]


def _optional(run: Run, path: Path, dimensions: int) -> dict[str, Tensor]:
    """Read the tensors of a file that may be missing; if they cannot be used, ``run.missing`` says why."""
    if not path.is_file():
        run.missing[path.name] = f"The run folder has no {path.name}."
        return {}
    try:
        tensors = read_tensors(path, repair="")
    except ArtifactError:
        run.missing[path.name] = f"{path.name} is not a complete safetensors file."
        return {}
    kept = {key: t.float() for key, t in sorted(tensors.items()) if t.ndim == dimensions and t.numel()}
    if len(kept) < len(tensors) or not kept:
        run.missing[path.name] = f"{path.name} contains tensors that are empty or do not have {dimensions} dimensions."
    return kept


def _ranked(run: Run) -> list[tuple[float, float]]:
    """Read scores and reference accuracies; if there are none, ``run.missing`` says why."""
    try:
        results = read_json(run.folder / "fidelity.json", repair="")["results"]
        points = [(float(row["proxy"]), float(row["truth"])) for row in results]
        if all(math.isfinite(value) for point in points for value in point):
            return points
    except (ArtifactError, KeyError, TypeError, ValueError):
        pass
    run.missing["fidelity.json"] = "The run folder has no usable fidelity.json with the result of every architecture."
    return []


def _class_names(folder: Path) -> list[str]:
    """Read the class names that a distillation saved."""
    try:
        names = read_json(folder / "proxy.json", repair="").get("class_names")
    except ArtifactError:
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


# -- what follows from the files --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """The found network compared with random ones that were trained in the same way.

    Attributes:
        points: How much more accurate the found network is than the mean of the random ones, in percentage points.
        count: Number of random networks; 0 if only their mean is known.
        better: Number of random networks with a higher accuracy.
        spread: Standard deviation of the random networks' accuracy in percentage points; 0 if it is not known.
        seeds: Number of trainings of each network.
        error: Standard error of ``points``, from trainings with several seeds; 0 where there was one.
    """

    points: float
    count: int
    better: int
    spread: float
    seeds: int
    error: float

    @property
    def within_chance(self) -> bool:
        """Whether the difference may be chance: it is at most twice its standard error.

        Where networks were trained once, so that there is no standard error, it is at most one standard deviation of
        the random networks.
        """
        if self.seeds > 1:
            return abs(self.points) <= 2 * self.error
        return self.spread > 0 and abs(self.points) <= self.spread

    @property
    def verdict(self) -> Literal["win", "lose", ""]:
        """``win`` only if several random networks show it, ``lose`` if their mean is better, and empty otherwise.

        With one training of each network, a single random network that is better forbids ``win``; with several, half
        of them do.
        """
        if self.points < 0:
            return "lose"
        shown = self.points > 0 and self.count != 1 and not self.within_chance
        few = self.better < self.count / 2 if self.seeds > 1 else not self.better
        return "win" if shown and few else ""


def compare(summary: Summary) -> Comparison | None:
    """Compare the found network with the random ones; None if there were none."""
    found, mean = summary.test_accuracy, summary.random_test_accuracy
    if mean is None:
        return None
    accuracies = summary.random_test_accuracies
    return Comparison(
        points=100 * (found - mean),
        count=len(accuracies),
        better=sum(accuracy > found for accuracy in accuracies),
        spread=100 * (summary.random_test_accuracy_std or 0.0),
        seeds=max(len(summary.test_accuracies), 1),
        error=_standard_error(summary),
    )


def _standard_error(summary: Summary) -> float:
    """Standard error of the found network's lead over the mean of these random ones, in percentage points.

    It is the error from seeds alone, whose deviation is taken over all networks together; 0 where it is not known.
    """
    networks = [summary.test_accuracies, *summary.random_test_accuracies_by_seed]
    if len(networks) < 2 or min(map(len, networks)) < 2:
        return 0.0
    between_seeds = statistics.mean(map(statistics.variance, networks))
    seeds, randoms = len(summary.test_accuracies), len(networks) - 1
    return 100 * math.sqrt(between_seeds / seeds * (1 + 1 / randoms))


@dataclass(frozen=True)
class Decision:
    """One decision of the discretization, with the names of states and operations.

    Attributes:
        what: What was decided.
        cell: Cell type.
        node: The node.
        chosen: What the discretization chose.
        reference: What removal on held-out images suggests.
        wrong: Whether both differ, and the reference is decided.
        result: ``differs``, ``agrees``, ``undecided`` or ``tie``.
        lead: By how much the reference is ahead, with its standard error, in nats; empty where it is not known.
    """

    what: str
    cell: str
    node: str
    chosen: list[str]
    reference: list[str]
    wrong: bool
    result: str
    lead: str


def decisions(run: Run) -> list[Decision]:
    """Describe every decision for which selection errors were measured."""
    details = run.summary.selection["details"] if run.summary.selection else []
    return [_decision(run, entry) for entry in details]


def _decision(run: Run, entry: Mapping[str, Any]) -> Decision:
    kind, row = entry.get("kind"), entry.get("edge")
    nodes = next((graph.nodes for graph in run.graphs if graph.name == entry.get("cell")), ())
    what = {"edges": "inputs", "operations": "operation"}.get(str(kind), "")
    if isinstance(row, int) and 0 <= row < len(run.rows):
        what += f" from {run.rows[row][0]}"

    def named(values: Sequence[Any]) -> list[str]:
        texts = [str(value) for value in values]
        if kind != "edges":
            return texts
        return [nodes[int(text)] if text.isdecimal() and int(text) < len(nodes) else text for text in texts]

    cell, node = (str(entry.get(key, "")) for key in ("cell", "node"))
    pair = named(entry["chosen"]), named(entry["reference"])
    return Decision(what, cell, node, *pair, bool(entry.get("wrong")), _result(entry), _lead(entry))


def _result(entry: Mapping[str, Any]) -> str:
    if entry.get("wrong"):
        return "differs"
    if entry.get("decided", True):  # older files decide everything
        return "agrees"
    return "tie" if entry.get("tie") else "undecided"


def _lead(entry: Mapping[str, Any]) -> str:
    lead, error = (entry.get(key) for key in ("lead", "error"))
    if not all(isinstance(value, int | float) for value in (lead, error)):
        return ""
    return f"{lead:.4f} ± {error:.4f}"
