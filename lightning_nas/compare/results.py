"""What the finished runs of a study have found, read from their folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from lightning_nas.architecture import Architecture
from lightning_nas.cli.lightning import build
from lightning_nas.compare.config import Metric, TruthSettings
from lightning_nas.compare.runs import Run
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.evaluation.base import sign_of
from lightning_nas.files.artifacts import read_json
from lightning_nas.pipeline.records import read_record
from lightning_nas.pipeline.run import Pipeline
from lightning_nas.pipeline.stages import Stage
from lightning_nas.report.curves import read_curves
from lightning_nas.report.selection import KINDS, is_decided
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.tables.base import Table


@dataclass(frozen=True)
class Result:
    """What one run has found.

    Attributes:
        run: The run.
        value: Its scaled value of the metric.
        seconds: Seconds of all its stages.
        architecture: The found architecture as text; empty where there is none.
        rank: Rank of the found architecture by the truth, from 1; None without truth.
        seen_rank: Its rank by what searches see; None where the truth does not say what that is.
        queries: Number of queries; None for a run without a query history.
        queries_to_best: Number of queries until an architecture that is best by what searches see was looked up, or
            all queries of the run where none was; None where the truth does not say what searches see.
        found: Whether one was looked up; None likewise.
        trajectory: A digest of all queries in their order, which is equal for runs that made the same; empty without
            queries.
        curve: After every query, the true performance of the architecture that is best so far, or its objective without
            truth; empty without queries.
        columns: Values of further metrics, None where a run has none.
        selection: Selection errors by kind, as ``SelectionErrors.summary`` counts them; empty where they were not
            measured, or by a version that did not tell undecided decisions apart.
    """

    run: Run
    value: float
    seconds: float
    architecture: str = ""
    rank: int | None = None
    seen_rank: int | None = None
    queries: int | None = None
    queries_to_best: int | None = None
    found: bool | None = None
    trajectory: str = ""
    curve: Sequence[float] = ()
    columns: Mapping[str, float | None] = field(default_factory=dict)
    selection: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Truth:
    """The true performance of architectures, by a column of a table.

    Args:
        settings: The table and its columns.

    Raises:
        ConfigError: The table has no such column.
        DataError: The file of the table cannot be used.
    """

    def __init__(self, settings: TruthSettings) -> None:
        self.settings = settings
        self.table: Table = build(Table, dict(settings.table))
        self.values = self.table.column(settings.column)
        self.feasible = np.isfinite(self.values)
        for name, bound in settings.constraints.items():
            self.feasible &= self.table.column(name) <= bound
        if not self.feasible.any():
            raise ConfigError(
                f"No architecture of {self.table.path} satisfies truth.constraints, {dict(settings.constraints)}. Use "
                "weaker ones."
            )

    def rows(self, architectures: Sequence[Architecture]) -> list[int]:
        """Rows of architectures, all of which the table has with a result.

        Args:
            architectures: The architectures.

        Raises:
            DataError: The table lacks one of them.
        """
        self.table.lookup_many(architectures, self.settings.column)
        return [int(row) for row in self.table.rows(architectures)]

    def rank(self, row: int) -> int:
        """Rank of a row, from 1, among those within the constraints; equal ones share the best rank.

        Args:
            row: Index of the row.
        """
        return 1 + int((self.values[self.feasible] > self.values[row]).sum())

    @cached_property
    def seen(self) -> Any:
        """What searches see, of the rows within the constraints, and ``-inf`` elsewhere; None where it is not known."""
        if self.settings.seen is None:
            return None
        seen = self.table.column(self.settings.seen)
        return np.where(self.feasible & np.isfinite(seen), seen, -np.inf)

    def seen_rank(self, row: int) -> int | None:
        """Rank of a row by what searches see, as in ``rank``; None where that is not known.

        Args:
            row: Index of the row.
        """
        if self.settings.seen is None:
            return None
        return 1 + int((self.seen > self.table.column(self.settings.seen)[row]).sum())

    @cached_property
    def optima(self) -> frozenset[int]:
        """The rows that are best by what searches see, all that are equal; empty where that is not known."""
        if self.seen is None:
            return frozenset()
        return frozenset(np.flatnonzero(self.seen == self.seen.max()).tolist())


def collect(run: Run, metric: Metric, truth: Truth | None, columns: Sequence[str] = ()) -> Result:
    """Read the result of a finished run.

    Args:
        run: The run.
        metric: What it is judged by without truth.
        truth: The true performance of architectures; None if it is not known.
        columns: Names of further metrics.

    Raises:
        ArtifactError: A file of the run is damaged.
        ConfigError: The run has no such metric, or has found no architecture to look up.
    """
    pipeline = run.pipeline()
    folder = _folder_of(pipeline, "architecture.json")
    values = Values(pipeline, folder)
    further = {name: values.get(name) for name in columns}
    found: dict[str, Any] = {"seconds": seconds(pipeline), "columns": further, "selection": values.selection}
    architecture = None if folder is None else load_architecture(folder / "architecture.json")
    if architecture is not None:
        found["architecture"] = build_space(architecture.space).text(architecture)
    queries = _queries(pipeline, architecture, truth)
    if truth is None:
        value = values.get(metric.name)
        if value is None:
            raise ConfigError(
                f"{run} has no metric {metric.name!r}; it has {', '.join(values.names) or 'none'}. Set the study's "
                "metric to one of them, or give it a truth."
            )
        return Result(run, metric.scale * value, **found, **queries)
    if architecture is None:
        raise ConfigError(
            f"{run} has no architecture.json to look up in {truth.table.path}. The study's truth is for entries that "
            "search; leave it out, or leave out this entry."
        )
    (row,) = truth.rows([architecture])
    return Result(
        run, float(truth.values[row]), **found, rank=truth.rank(row), seen_rank=truth.seen_rank(row), **queries
    )


def seconds(pipeline: Pipeline) -> float:
    """Seconds of all stages of a finished chain.

    Args:
        pipeline: The chain.
    """
    records = [read_record(pipeline.run_dir / stage.name) for stage in pipeline.stages]
    return sum(record.seconds for record in records if record is not None and record.seconds is not None)


class Values:
    """Numbers that a run has left, by their names.

    Attributes:
        found: The numbers.
        selection: Selection errors by kind; see ``Result``.

    Args:
        pipeline: The stages of the run.
        folder: Folder of the found architecture, if there is one.
    """

    def __init__(self, pipeline: Pipeline, folder: Path | None) -> None:
        repair = "Delete the folder of the run to repeat it."
        self.found: dict[str, float] = {}
        self.selection: dict[str, Mapping[str, Any]] = {}
        if folder is not None:
            provenance = read_json(folder / "architecture.json", repair=repair).get("provenance")
            self._add(provenance, "")
            errors = provenance.get("selection_errors") or {} if isinstance(provenance, dict) else {}
            self.selection = {kind: errors[kind] for kind in KINDS if kind in errors and is_decided(errors[kind])}
        for stage in pipeline.stages:
            if not stage.compared:
                curves = read_curves(pipeline.run_dir / stage.name)
                self.found |= {name: points[-1].value for name, points in curves.items()}
        if pipeline.final:
            self._add(read_json(pipeline.run_dir / "summary.json", repair=repair), "")

    def _add(self, node: Any, place: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                self._add(value, f"{place}.{key}" if place else str(key))
        elif isinstance(node, int | float) and place != "schema":
            self.found[place] = float(node)

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.found)

    def get(self, name: str) -> float | None:
        """The number of a name; None where there is none.

        Args:
            name: Its name.
        """
        return self.found.get(name)


def _folder_of(pipeline: Pipeline, name: str) -> Path | None:
    """The folder of a file that the last stage which has one has written."""
    for stage in reversed(pipeline.stages):
        folder = None if stage.compared else _holds(pipeline, stage, name)
        if folder is not None:
            return folder
    return None


def _holds(pipeline: Pipeline, stage: Stage, name: str) -> Path | None:
    """The folder of a stage's artifacts that holds a file: its ``output_dir``, or else that of its last log."""
    given = stage.arguments.get("output_dir")
    logs = sorted((pipeline.run_dir / stage.name).glob("version_*"), key=lambda path: path.stat().st_mtime)
    folders = [Path(given)] if given is not None else logs[::-1]
    return next((folder for folder in folders if (folder / name).is_file()), None)


def _queries(pipeline: Pipeline, architecture: Architecture | None, truth: Truth | None) -> dict[str, Any]:
    """The query history of a run: number of queries, and the best after each of them."""
    folder = _folder_of(pipeline, "history.json")
    if folder is None or architecture is None:
        return {}
    path = folder / "history.json"
    content = read_json(path, repair="Delete the folder of the run to repeat it.")
    try:
        objective = str(content["objective"])
        rows = [(tuple(row["choices"]), float(row["objectives"][objective])) for row in content["history"]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is not what a search writes ({error!r:.200}). Delete {pipeline.run_dir}."
        ) from None
    sign = sign_of(objective)
    best: list[int] = []  # index of the best query so far, after every query
    for place, (_, value) in enumerate(rows):
        best.append(place if not best or sign * value > sign * rows[best[-1]][1] else best[-1])
    asked = json.dumps([choices for choices, _ in rows])
    found: dict[str, Any] = {"queries": int(content["queries"]), "trajectory": sha256(asked.encode()).hexdigest()}
    if truth is None:
        return {**found, "curve": [rows[place][1] for place in best]}
    looked_up = truth.rows([Architecture(architecture.space, choices) for choices, _ in rows])
    found["curve"] = [float(truth.values[looked_up[place]]) for place in best]
    if truth.optima:
        hits = [place for place, row in enumerate(looked_up, 1) if row in truth.optima]
        found |= {"found": bool(hits), "queries_to_best": hits[0] if hits else found["queries"]}
    return found
