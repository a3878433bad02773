"""The summary of a run as a table for the terminal."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_nas.report import selection
from lightning_nas.report.selection import KINDS


def table(summary: Mapping[str, Any]) -> str:
    """Write the content of ``summary.json`` as a table of names and values."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}%"

    errors, fidelity = summary["selection_errors"] or {}, summary["fidelity"]
    compared = [s["seconds"] for s in summary["stages"] if s["name"] in summary["compared_stages"]]
    rows = [
        (f"{s['name']}{' (since resumed)' if s['resumed'] else ''}", f"{s['seconds']:.1f} s")
        for s in summary["stages"]
        if s["name"] not in summary["compared_stages"]
    ]
    if compared:
        rows.append((f"{len(compared)} trainings to compare with", f"{sum(compared):.1f} s"))
    seeds = len(summary["test_accuracies"])
    rows += [
        ("all stages", f"{summary['seconds_total']:.1f} s"),
        ("peak memory", "-" if summary["peak_memory_mb"] is None else f"{summary['peak_memory_mb']:.0f} MB"),
        ("images searched on", f"{summary['proxy_images'] or 'all'} of {summary['source_images'] or 'all'}"),
        *(_fidelity_rows(fidelity) if fidelity else []),
        ("parameters", f"{summary['parameters']:,}"),
        ("multiply-accumulates", f"{summary['macs']:,}"),
        (
            f"test accuracy{f', mean of {seeds} seeds' if seeds > 1 else ''}",
            percent(summary["test_accuracy"]) + _deviation(summary["test_accuracies"]),
        ),
        (
            "random architectures",
            f"{percent(summary['random_test_accuracy'])} (mean of {len(summary['random_test_accuracies'])})",
        ),
    ]
    rows += [
        (each["label"], f"{percent(each['test_accuracy'])}{_deviation(each['test_accuracies'])}")
        for each in summary["baselines"]
    ]
    rows += [(each["label"], "left out") for each in summary["baselines_left_out"]]
    rows += [row for kind in KINDS if kind in errors and errors[kind]["count"] for row in _errors(kind, errors[kind])]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value:>22}" for name, value in rows)


def _deviation(accuracies: Sequence[float]) -> str:
    return f" ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""


def _errors(kind: str, errors: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the selection errors of a kind; what is not known is left out."""
    rows = [
        (f"selection errors, {kind}", selection.count(errors)),
        ("their 95% interval", selection.interval(errors)),
        (f"undecided {kind}", selection.undecided(errors)),
        ("images they were measured on", selection.images(errors)),
    ]
    return [row for row in rows if row[1]]


def _fidelity_rows(fidelity: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List how well the proxy ranks architectures."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    low, high = fidelity["interval"]
    few = " (informative only)" if fidelity["informative_only"] else ""
    below = " (below the threshold)" if fidelity["passed"] is False else ""
    return [
        ("rank fidelity of the proxy, tau", f"{number(fidelity['kendall_tau'])}{below}"),
        ("its 95% interval", f"{number(low)} to {number(high)}"),
        ("regret of its first choice", f"{number(fidelity['regret_points'])} points"),
        ("architectures ranked", f"{fidelity['architectures']}{few}"),
        *([("architectures not evaluated", f"{failed}")] if (failed := fidelity.get("failed")) else []),
    ]
