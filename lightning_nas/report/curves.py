"""Curves of a run, as Lightning's CSVLogger wrote them."""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lightning_nas.errors import ArtifactError


class Point(NamedTuple):
    """A logged value.

    Attributes:
        epoch: Epoch, from 0.
        step: Step of the trainer.
        value: What was logged; may be infinite or nan.
    """

    epoch: float
    step: float
    value: float


@dataclass(frozen=True)
class Panel:
    """What one picture of curves shows.

    Attributes:
        series: ``(x, y)`` points by metric, all finite.
        xlabel: ``epoch`` or ``step``.
        log: Whether the values span so much that their axis should be logarithmic.
        skipped: Number of values that were not finite.
    """

    series: dict[str, list[tuple[float, float]]]
    xlabel: str
    log: bool
    skipped: int


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts ``version_10`` behind ``version_9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _number(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; what a killed process left of a last row counts as far as it goes."""
    try:
        with path.open(newline="", errors="replace") as file:
            rows = list(csv.DictReader(file, restkey="", restval=""))
    except csv.Error as error:
        raise ArtifactError(f"{path} is no CSV file ({error}). Delete it, or run its stage again.") from None
    return [{name: text for name, text in row.items() if name and isinstance(text, str)} for row in rows]


def read_curves(folder: Path) -> dict[str, list[Point]]:
    """Read every ``metrics.csv`` under a stage's folder, in the order of their versions.

    Several versions are one run that was resumed: where a later one logs a metric again from some step on, the
    earlier values from there on were lost with the process that logged them, and are left out. Cells that hold no
    number are skipped.

    Args:
        folder: A folder with ``**/metrics.csv``.

    Returns:
        Points by metric, in the order of their steps.

    Raises:
        ArtifactError: A file is no CSV.
    """
    curves: dict[str, list[Point]] = {}
    for path in sorted(folder.glob("**/metrics.csv"), key=_natural):
        logged: dict[str, list[Point]] = {}
        for row in _rows(path):
            step, epoch = (_number(row.pop(key, "")) or 0.0 for key in ("step", "epoch"))
            for name, text in row.items():
                value = _number(text)
                if value is not None:
                    logged.setdefault(name, []).append(Point(epoch, step, value))
        for name, points in logged.items():
            first = min(point.step for point in points)
            curves[name] = [point for point in curves.get(name, []) if point.step < first] + points
    return curves


def panel(curves: Mapping[str, list[Point]], word: str) -> Panel | None:
    """Choose the metrics whose name holds a word, those of tests apart: a test is no curve.

    Args:
        curves: Points by metric.
        word: ``loss`` or ``accuracy``.

    Returns:
        None where there is no such metric with a finite value. Positions are epochs, from 1, where no metric has two
        values in one epoch, else steps.
    """
    chosen = {
        name: points
        for name, points in sorted(curves.items())
        # Lightning logs a metric that is asked for by step and by epoch under both names
        if word in name
        and not name.startswith("test")
        and not (name.endswith("_step") and f"{name[:-5]}_epoch" in curves)
    }
    by_epoch = all(len({p.epoch for p in points}) == len(points) for points in chosen.values())
    finite = {
        name: [(p.epoch + 1 if by_epoch else p.step, p.value) for p in points if math.isfinite(p.value)]
        for name, points in chosen.items()
    }
    series = {name: points for name, points in finite.items() if points}
    if not series:
        return None
    values = [y for points in series.values() for _, y in points]
    log = min(values) > 0 and max(values) > 30 * min(values)
    skipped = sum(len(points) for points in chosen.values()) - len(values)
    return Panel(series, "epoch" if by_epoch else "step", log, skipped)
