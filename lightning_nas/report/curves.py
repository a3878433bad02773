"""Curves of a run, read from the files of Lightning's ``CSVLogger``."""

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
        epoch: Epoch, counted from 0.
        step: The trainer's global step.
        value: The value, which may be infinite or NaN.
    """

    epoch: float
    step: float
    value: float


@dataclass(frozen=True)
class Panel:
    """The content of one picture of curves.

    Attributes:
        series: Finite ``(x, y)`` points by metric.
        xlabel: Unit of x: ``epoch`` or ``step``.
        log: Whether the values are positive and span a factor of more than 30, so that a logarithmic axis suits them.
        skipped: Number of values that are not finite and were left out.
    """

    series: dict[str, list[tuple[float, float]]]
    xlabel: str
    log: bool
    skipped: int


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts ``version_10`` after ``version_9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _number(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file. If a killed process left the last row incomplete, its complete cells count."""
    try:
        with path.open(newline="", errors="replace") as file:
            rows = list(csv.DictReader(file, restkey="", restval=""))
    except csv.Error as error:
        raise ArtifactError(f"{path} is not a CSV file ({error}). Delete it, or run its stage again.") from None
    return [{name: text for name, text in row.items() if name and isinstance(text, str)} for row in rows]


def read_curves(folder: Path) -> dict[str, list[Point]]:
    """Read every ``metrics.csv`` under the folder of a stage, in the order of their versions.

    Several versions belong to one run that was resumed. Where a later version logs a metric from some step on, the
    earlier values from that step on were lost with the process that logged them, and are left out. Cells without a
    number are skipped.

    Args:
        folder: A folder with ``**/metrics.csv``.

    Returns:
        Points by metric, in the order of their steps.

    Raises:
        ArtifactError: A file is not a CSV file.

    Example:
        ```python
        curves = read_curves(Path("runs/first/search"))
        losses = [point.value for point in curves["search/loss"]]
        ```
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
    """Choose the metrics whose name contains a word. Metrics of a test are left out: a single value is no curve.

    Args:
        curves: Points by metric.
        word: The word, such as ``loss`` or ``accuracy``.

    Returns:
        None if no such metric has a finite value. x is the epoch, counted from 1, if every metric has at most one
        value per epoch, and otherwise the step.
    """
    chosen = {
        name: points
        for name, points in sorted(curves.items())
        # Lightning logs a metric of steps and epochs under both names; the one of the epochs is enough
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
