"""The table of a study, as text, CSV, Markdown and LaTeX."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_nas.compare.config import Metric
from lightning_nas.compare.results import Result
from lightning_nas.compare.statistics import (
    FEWEST_FOR_TEST,
    LEVEL,
    MOST_EXACT,
    RESAMPLES,
    Difference,
    Spread,
    difference,
    spread,
)
from lightning_nas.metrics.selection import pooled
from lightning_nas.report.selection import KINDS

_LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"±": r"$\pm$", "≥": r"$\geq$"},
    }
)
_MARKDOWN = str.maketrans({"|": "\\|", "\n": " "})


@dataclass(frozen=True)
class Row:
    """The figures of an entry on a data set.

    Attributes:
        dataset: Name of the data set; empty where the study lists none.
        entry: Name of the entry.
        values: Values of the metric by seed.
        spread: Their spread.
        difference: Difference to the baseline; None for the baseline itself, and without one.
        median_rank: Median rank of the found architectures; None without truth.
        median_seen_rank: Median of their ranks by what searches see; None where that is not known.
        distinct: Number of seeds whose queries differ; None without queries.
        found: Share of the seeds that looked up a best architecture; None where it is not known.
        queries_to_best: Mean number of queries until then; all queries of a run where it was not found.
        censored: Number of seeds that did not find it; None where that is not known.
        queries: Mean number of queries; None where there are none.
        seconds: Mean seconds of a run.
        seconds_most: The largest.
        columns: Means of further metrics; None where no run has one.
        selection: Selection errors of all seeds together by kind, as ``SelectionErrors.summary`` counts them; empty
            where no run has any.
    """

    dataset: str
    entry: str
    values: Mapping[int, float]
    spread: Spread
    difference: Difference | None
    median_rank: float | None
    median_seen_rank: float | None
    distinct: int | None
    found: float | None
    queries_to_best: float | None
    censored: int | None
    queries: float | None
    seconds: float
    seconds_most: float
    columns: Mapping[str, float | None]
    selection: Mapping[str, Mapping[str, Any]]

    def flat(self) -> dict[str, Any]:
        """All figures by name, as numbers, for JSON and CSV."""
        gap = self.difference
        return {
            **({"dataset": self.dataset} if self.dataset else {}),
            "entry": self.entry,
            "seeds": self.spread.n,
            "distinct": self.distinct,
            "mean": self.spread.mean,
            "deviation": self.spread.deviation,
            "worst": self.spread.worst,
            "best": self.spread.best,
            "median_rank": self.median_rank,
            "median_seen_rank": self.median_seen_rank,
            "difference": gap and gap.mean,
            "difference_low": gap and gap.low,
            "difference_high": gap and gap.high,
            "pairs": gap and gap.n,
            "wins": gap and gap.wins,
            "ties": gap and gap.ties,
            "losses": gap and gap.losses,
            "p": gap and gap.p,
            "found": self.found,
            "queries_to_best": self.queries_to_best,
            "censored": self.censored,
            "queries": self.queries,
            "seconds": self.seconds,
            "seconds_most": self.seconds_most,
            **self.columns,
            **{f"selection_errors_{kind}_{k}": v for kind, errors in self.selection.items() for k, v in errors.items()},
        }


def rows(results: Sequence[Result], baseline: str | None, lower: bool = False) -> list[Row]:
    """Summarize results by data set and entry, in the order of the study.

    Args:
        results: Results of finished runs.
        baseline: Entry that all others are compared with; None for none.
        lower: Whether lower values are better.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.run.dataset, result.run.entry), []).append(result)
    datasets = list(dict.fromkeys(dataset for dataset, _ in groups))
    ordered = sorted(groups, key=lambda key: datasets.index(key[0]))
    by_seed = {key: {each.run.seed: each.value for each in group} for key, group in groups.items()}
    found = []
    for key in ordered:
        dataset, entry = key
        base = by_seed.get((dataset, baseline), {}) if baseline is not None and entry != baseline else {}
        gap = difference(by_seed[key], base, lower)
        found.append(_row(dataset, entry, groups[key], by_seed[key], gap, lower))
    return found


def _row(
    dataset: str,
    entry: str,
    group: Sequence[Result],
    values: Mapping[int, float],
    gap: Difference | None,
    lower: bool,
) -> Row:
    """Summarize the results of an entry on a data set."""

    def mean(given: Sequence[float | None]) -> float | None:
        known = [each for each in given if each is not None]
        return statistics.mean(known) if known else None

    def median(given: Sequence[int | None]) -> float | None:
        known = [each for each in given if each is not None]
        return statistics.median(known) if known else None

    trajectories = {each.trajectory for each in group if each.trajectory}
    hits = [each.found for each in group if each.found is not None]
    return Row(
        dataset,
        entry,
        values,
        spread(list(values.values()), lower),
        gap,
        median_rank=median([each.rank for each in group]),
        median_seen_rank=median([each.seen_rank for each in group]),
        distinct=len(trajectories) if all(each.trajectory for each in group) else None,
        found=mean([float(hit) for hit in hits]),
        queries_to_best=mean([each.queries_to_best for each in group]),
        censored=hits.count(False) if hits else None,
        queries=mean([each.queries for each in group]),
        seconds=statistics.mean(each.seconds for each in group),
        seconds_most=max(each.seconds for each in group),
        columns={name: mean([each.columns.get(name) for each in group]) for name in group[0].columns},
        selection=_selection(group),
    )


def _selection(group: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Add up the selection errors of several runs."""
    measured = {kind: [each.selection[kind] for each in group if kind in each.selection] for kind in KINDS}
    found = {kind: pooled(summaries) for kind, summaries in measured.items()}
    return {kind: summary for kind, summary in found.items() if summary["count"]}


def _errors(row: Row, kind: str) -> str:
    """Selection errors of a kind in a cell of the table."""
    errors = row.selection.get(kind)
    if errors is None:
        return ""
    rate = "" if errors["rate"] is None else f"{errors['rate']:.2f} [{errors['low']:.2f}, {errors['high']:.2f}], "
    return f"{rate}{errors['decided']} of {errors['count']} decided on {errors['images']:,}"


def cells(found: Sequence[Row], metric: Metric, baseline: str | None) -> list[list[str]]:
    """The table as texts, the head first. Columns that no row has a figure for are left out.

    Args:
        found: The rows.
        metric: The metric.
        baseline: The baseline, for the head.
    """
    digits = 2 if max(abs(row.spread.mean) for row in found) >= 10 else 4
    head = ["data", "entry", "seeds", metric.label, "worst"]
    head += [
        "median rank",
        "rank as seen",
        f"minus {baseline}, 95 % interval",
        "wins/ties/losses",
        "p (n)",
        "found",
        "to the best",
    ]
    head += ["queries", "seconds", *KINDS.values(), *found[0].columns]
    table = [[*_values(row, digits), *_figures(row, digits)] for row in found]
    table = [[row.dataset, *line] for row, line in zip(found, table, strict=True)]
    kept = [i for i in range(len(head)) if any(line[i] for line in table)]
    return [[line[i] for i in kept] for line in (head, *table)]


def _values(row: Row, digits: int) -> list[str]:
    """Entry, seeds, mean and worst value, median ranks."""
    scatter = "" if row.spread.deviation is None else f" ± {row.spread.deviation:.{digits}f}"
    worst = f"{row.spread.worst:.{digits}f}"
    ranks = ["" if rank is None else f"{rank:g}" for rank in (row.median_rank, row.median_seen_rank)]
    same = row.distinct is not None and row.distinct < row.spread.n
    seeds = f"{row.spread.n} ({row.distinct} distinct)" if same else str(row.spread.n)
    return [row.entry, seeds, f"{row.spread.mean:.{digits}f}{scatter}", worst, *ranks]


def _figures(row: Row, digits: int) -> list[str]:
    """Everything else."""
    gap = row.difference
    known = [""] * 3
    if gap is not None:
        ends = "" if gap.low is None else f" [{gap.low:.{digits}f}, {gap.high:.{digits}f}]"
        known = [f"{gap.mean:+.{digits}f}{ends}", f"{gap.wins}/{gap.ties}/{gap.losses}", f"n = {gap.n}: too few"]
        if gap.p is not None:
            known[2] = f"{gap.p:.3f} (n = {gap.n})" if gap.p >= 0.001 else f"{gap.p:.0e} (n = {gap.n})"
    known += ["" if row.found is None else f"{row.found:.2g}"]
    known += ["" if row.queries_to_best is None else f"{'≥ ' if row.censored else ''}{row.queries_to_best:.1f}"]
    known += ["" if row.queries is None else f"{row.queries:.1f}"]
    further = ["" if value is None else f"{value:.4g}" for value in row.columns.values()]
    return [*known, f"{row.seconds:.1f}", *(_errors(row, kind) for kind in KINDS), *further]


def notes(metric: Metric, baseline: str | None, found: Sequence[Row], truth: str = "") -> list[str]:
    """What a reader needs to know about the table's statistics.

    Args:
        metric: The metric.
        baseline: The baseline.
        found: The rows.
        truth: Where true values come from, if they do.
    """
    better = "Lower is better." if metric.lower else "Higher is better."
    unit = f" in {metric.unit}" if metric.unit else ""
    lines = [f"{metric.name}{unit}: mean ± standard deviation over seeds. {better}"]
    if truth:
        lines[0] += f" True values: {truth}."
    compared = [row for row in found if row.difference is not None]
    if compared:
        lines.append(
            f"minus {baseline}: mean of the paired differences over seeds, above 0 where the entry is better, with the "
            f"{100 * LEVEL:.0f} % percentile interval of {RESAMPLES:,} bootstrap resamples of the seeds. For few seeds "
            "it is too narrow: its true level with five is about 85 %."
        )
        tested = [row for row in compared if row.difference is not None and row.difference.p is not None]
        known = f"not corrected for {len(tested)} comparisons" if tested else f"needs {FEWEST_FOR_TEST} of them"
        lines.append(
            f"p: two-sided signed-rank test of Wilcoxon over n pairs, without those that are equal; {known}; exact, "
            f"but for more than {MOST_EXACT} pairs with tied differences."
        )
    lines += _query_notes(found)
    return lines


def _query_notes(found: Sequence[Row]) -> list[str]:
    """What a reader needs to know about the queries of searches."""
    lines = []
    if any(row.median_seen_rank is not None for row in found):
        lines.append("rank as seen: median rank of the found architectures by what searches see.")
    if any(row.found is not None for row in found):
        lines.append(
            "found: share of the seeds that looked up an architecture which is best by what searches see, equal ones "
            "included; to the best: mean number of queries until then."
        )
    if any(row.censored for row in found):
        lines.append(
            "≥: runs that did not find it count with all their queries, so that the mean is too low, and a comparison "
            "of two such means depends on the budget."
        )
    if any(row.distinct is not None and row.distinct < row.spread.n for row in found):
        lines.append(
            "distinct: number of different sequences of queries among the seeds. Seeds with the same queries are one "
            "measurement; their deviation, interval and p-value say nothing."
        )
    if any(row.selection for row in found):
        lines.append(
            "E1, E2: share of the decided nodes and edges of all seeds whose inputs and operation are not those that "
            "the supernet needs most, with Wilson's interval of 95 %; how many were decided, on up to how many images "
            "each. Undecided ones are not counted in the share."
        )
    return lines


def text(lines: Sequence[Sequence[str]]) -> str:
    """The table for a terminal.

    Args:
        lines: What ``cells`` returned.
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    words = ("data", "entry")

    def row(line: Sequence[str]) -> str:
        parts = [
            f"{cell:<{width}}" if name in words else f"{cell:>{width}}"
            for name, cell, width in zip(lines[0], line, widths, strict=True)
        ]
        return "  ".join(parts).rstrip()

    head, *body = map(row, lines)
    return "\n".join([head, "-" * len(head), *body])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The table in Markdown.

    Args:
        lines: What ``cells`` returned.
    """
    head, *body = [f"| {' | '.join(cell.translate(_MARKDOWN) for cell in line)} |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def latex(lines: Sequence[Sequence[str]]) -> str:
    """The table in LaTeX, with the rules of the package booktabs.

    Args:
        lines: What ``cells`` returned.
    """
    head, *body = [f"{' & '.join(cell.translate(_LATEX) for cell in line)} \\\\" for line in lines]
    columns = "".join("l" if name in ("data", "entry") else "r" for name in lines[0])
    return "\n".join(
        [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV, with the numbers in full.

    Args:
        records: One mapping per line; missing keys and None are empty cells.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()
