"""The page of a study: one HTML file without scripts or external resources."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import ChoiceLoader, PackageLoader

from lightning_nas.compare import table
from lightning_nas.compare.config import Metric
from lightning_nas.compare.figures import by_entry, describe, draw_curves, draw_points
from lightning_nas.compare.results import Result
from lightning_nas.compare.statistics import FEWEST_FOR_TEST
from lightning_nas.compare.table import Row
from lightning_nas.pipeline.records import versions
from lightning_nas.report.figures import svg
from lightning_nas.report.page import TEMPLATES
from lightning_nas.report.panels import Picture

SIGNIFICANT = 0.05
"""p-value below which a difference counts as one."""

_LOADERS = [PackageLoader("lightning_nas.compare"), *([TEMPLATES.loader] if TEMPLATES.loader else [])]
_TEMPLATES = TEMPLATES.overlay(loader=ChoiceLoader(_LOADERS))

_RUNS = ("dataset", "entry", "seed", "value", "rank", "seen_rank", "queries", "seconds", "architecture")


@dataclass(frozen=True)
class Verdict:
    """What a comparison with the baseline says.

    Attributes:
        kind: ``win``, ``lose``, or empty where both cannot be told apart.
        text: A sentence.
    """

    kind: str
    text: str


def verdict(row: Row, baseline: str, metric: Metric) -> Verdict | None:
    """Say in words how an entry compares with the baseline.

    Args:
        row: The row of the entry.
        baseline: The baseline.
        metric: The metric.

    Returns:
        None for the baseline itself.
    """
    gap = row.difference
    if gap is None:
        return None
    unit = "percentage points" if metric.unit == "%" else metric.unit
    amount = f"{abs(gap.mean):.{2 if abs(gap.mean) >= 0.01 else 4}f} {unit}".strip()
    count = f"won {gap.wins}, tied {gap.ties} and lost {gap.losses} of {gap.n} pairs of seeds"
    apart = gap.low is not None and gap.high is not None and (gap.low > 0 or gap.high < 0)
    if gap.low is None or not apart or (gap.p is not None and gap.p >= SIGNIFICANT):
        return Verdict("", f"{row.entry} and {baseline} cannot be told apart: {count}.")
    word, kind = ("better", "win") if gap.mean > 0 else ("worse", "lose")
    ends = f"{gap.low:.2f} to {gap.high:.2f}"
    said = f"{row.entry} is {amount} {word} than {baseline} (95 % interval of the difference {ends}; {count}"
    if gap.p is None:
        return Verdict("", f"{said}). Fewer than {FEWEST_FOR_TEST} pairs differ: too few for a test.")
    return Verdict(kind, f"{said}; p = {gap.p:.2g}, n = {gap.n}).")


def page(content: Mapping[str, Any], rows: Sequence[Row], results: Sequence[Result], metric: Metric) -> str:
    """Make the page of a study.

    Args:
        content: ``study``, ``baseline``, ``missing``, ``command`` and ``notes``.
        rows: Rows of the table.
        results: Results of all finished runs.
        metric: The metric.
    """
    baseline = content["baseline"]
    names = list(dict.fromkeys(row.dataset for row in rows))
    records = [record(each) for each in results]
    head = [name for name in _RUNS if any(each.get(name) not in (None, "") for each in records)]
    seeds = {row.spread.n for row in rows}
    return _TEMPLATES.get_template("compare.html").render(
        title=f"Comparison {content['study']}",
        study=content["study"],
        entries=len(dict.fromkeys(row.entry for row in rows)),
        seeds=max(seeds) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}",
        facts=_facts(),
        missing=content["missing"],
        parts=[_part(name, [row for row in rows if row.dataset == name], results, metric, baseline) for name in names],
        notes=content["notes"],
        run_head=head,
        runs=[[_short(each.get(name)) for name in head] for each in records],
        command=content["command"],
    )


def _part(dataset: str, rows: Sequence[Row], results: Sequence[Result], metric: Metric, baseline: str | None) -> Any:
    """What the page shows of one data set."""
    head, *body = table.cells(rows, metric, baseline)
    start = head.index("entry")
    best = (min if metric.lower else max)(rows, key=lambda row: row.spread.mean)
    pictures = [Picture(svg=svg(draw_points(rows, metric), describe(rows, metric)), caption=POINTS, max_width=760)]
    curves = by_entry([each for each in results if each.run.dataset == dataset])
    if curves:
        alt = f"{metric.label} of the best architecture so far over the number of queries: {', '.join(curves)}"
        pictures.append(Picture(svg=svg(draw_curves(curves, metric.label), alt), caption=CURVES, max_width=760))
    verdicts = {row.entry: said for row in rows if baseline and (said := verdict(row, baseline, metric))}
    first = verdicts.pop(best.entry, None)
    return {
        "title": dataset or metric.name,
        "headline": f"{best.entry} has the best mean, {best.spread.mean:.4g}{f' {metric.unit}' if metric.unit else ''}",
        "verdict": first,
        "others": list(verdicts.values()),
        "pictures": pictures,
        "head": head[start:],
        "body": [line[start:] for line in body],
        "best": best.entry,
    }


POINTS = "One dot per seed; diamonds are means, lines their 95 % bootstrap intervals over seeds."
"""Caption of the picture of all seeds."""

CURVES = "The best so far: mean over seeds, with the middle half of the seeds as a band."
"""Caption of the picture of curves."""


def _facts() -> list[str]:
    """Date, machine and versions."""
    date = datetime.now().astimezone().isoformat(timespec="minutes")
    return [date, f"{platform.machine()}, {os.cpu_count()} CPUs", *(f"{k} {v}" for k, v in versions().items())]


def _short(value: Any) -> str:
    """A value in a cell of the list of runs."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def record(result: Result) -> dict[str, Any]:
    """A result as one line of CSV.

    Args:
        result: The result.
    """
    run = result.run
    return {
        **({"dataset": run.dataset} if run.dataset else {}),
        "entry": run.entry,
        "seed": run.seed,
        "value": result.value,
        "rank": result.rank,
        "seen_rank": result.seen_rank,
        "found": None if result.found is None else int(result.found),
        "queries": result.queries,
        "queries_to_best": result.queries_to_best,
        "seconds": round(result.seconds, 2),
        **result.columns,
        **{f"selection_errors_{kind}_{k}": v for kind, errors in result.selection.items() for k, v in errors.items()},
        "architecture": result.architecture,
    }
