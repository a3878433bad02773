"""The summary of a run for the terminal: what it has shown, and a table of its figures."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from lightning_nas.report import selection
from lightning_nas.report.networks import headline, statements
from lightning_nas.report.run import compare
from lightning_nas.report.selection import KINDS
from lightning_nas.report.summary import Summary

WIDTH = 100
"""Number of characters of a line of the verdict."""

Rows = list[tuple[str, str]]
"""Names and values."""


def verdict(summary: Mapping[str, Any]) -> str:
    """Say in words what a run has shown, as its report does.

    Args:
        summary: The content of ``summary.json``.
    """
    read = Summary.parse(summary, Path("summary.json"))
    said = [f"{headline(read, compare(read)).words}.", *(each.words for each in statements(read))]
    return "\n".join(fill(each, WIDTH, subsequent_indent="  ") for each in said)


def table(summary: Mapping[str, Any]) -> str:
    """Write the figures of a run as names and values: its result first, then the network, then time and memory.

    Args:
        summary: The content of ``summary.json``.
    """
    rows = [*_accuracies(summary), *_network(summary), *_search(summary), *_costs(summary)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _accuracies(summary: Mapping[str, Any]) -> Rows:
    """The accuracy of the found network, and of those that it is compared with."""
    seeds, interval = len(summary["test_accuracies"]), summary.get("test_interval")
    rows = [
        (
            f"test accuracy{f', mean of {seeds} seeds' if seeds > 1 else ''}",
            percent(summary["test_accuracy"]) + _deviation(summary["test_accuracies"]),
        )
    ]
    if interval:
        low, high = interval
        rows.append(("its 95% interval", f"{100 * low:.2f}% to {percent(high)} ({summary['test_images']:,} images)"))
    randoms = summary["random_test_accuracies"]
    if randoms:
        rows.append(("random architectures", f"{percent(summary['random_test_accuracy'])} (mean of {len(randoms)})"))
    if len(randoms) > 1:
        rows.append(("the best of them", percent(max(randoms))))
    rows += [
        (each["label"], f"{percent(each['test_accuracy'])}{_deviation(each['test_accuracies'])}")
        for each in summary["baselines"]
    ]
    return rows + [(each["label"], "left out") for each in summary["baselines_left_out"]]


def _network(summary: Mapping[str, Any]) -> Rows:
    """Size and files of the found network."""
    files = ["report.html", *summary.get("export_differences", ())]
    return [
        ("parameters", f"{summary['parameters']:,}"),
        ("multiply-accumulates", f"{summary['macs']:,}"),
        ("files", ", ".join(files)),
        ("folder", str(summary["run_dir"])),
    ]


def _search(summary: Mapping[str, Any]) -> Rows:
    """How far the search itself can be trusted."""
    errors, fidelity = summary["selection_errors"] or {}, summary["fidelity"]
    rows = [row for kind in KINDS if kind in errors and errors[kind]["count"] for row in _errors(kind, errors[kind])]
    if summary["proxy_images"]:
        rows.append(("images searched on", f"{summary['proxy_images']:,} of {summary['source_images'] or 'all'}"))
    return rows + (_fidelity_rows(fidelity) if fidelity else [])


def _costs(summary: Mapping[str, Any]) -> Rows:
    """Time and memory."""
    compared = [s["seconds"] for s in summary["stages"] if s["name"] in summary["compared_stages"]]
    rows = [
        (f"{s['name']}{' (since resumed)' if s['resumed'] else ''}", f"{s['seconds']:.1f} s")
        for s in summary["stages"]
        if s["name"] not in summary["compared_stages"]
    ]
    if compared:
        rows.append(
            (f"{len(compared)} training{'s' if len(compared) > 1 else ''} to compare with", f"{sum(compared):.1f} s")
        )
    return [
        *rows,
        ("whole run, wall clock", f"{summary['seconds_total']:.1f} s"),
        ("peak memory", "-" if summary["peak_memory_mb"] is None else f"{summary['peak_memory_mb']:.0f} MB"),
    ]


def percent(value: float) -> str:
    """Write a fraction as a percentage."""
    return f"{100 * value:.2f}%"


def _deviation(accuracies: Sequence[float]) -> str:
    return f" ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""


def _errors(kind: str, errors: Mapping[str, Any]) -> Rows:
    """List the selection errors of a kind; what is not known is left out."""
    rows = [
        (f"selection errors, {kind}", selection.count(errors)),
        ("their 95% interval", selection.interval(errors)),
        (f"undecided {kind}", selection.undecided(errors)),
        ("images they were measured on", selection.images(errors)),
    ]
    return [row for row in rows if row[1]]


def _control_rows(control: Mapping[str, Any]) -> Rows:
    """List how well the control of a proxy ranks architectures, and which of the two is better."""
    tau, better = control["kendall_tau"], control["better"]
    return [
        ("tau of real images of the same bytes", "-" if tau is None else f"{tau:.2f}"),
        ("ranks better", "not shown" if better == "neither" else better),
    ]


def _fidelity_rows(fidelity: Mapping[str, Any]) -> Rows:
    """List how well the proxy ranks architectures."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    low, high = fidelity["interval"]
    few = " (informative only)" if fidelity["informative_only"] else ""
    below = " (below the threshold)" if fidelity["passed"] is False else ""
    return [
        ("rank fidelity of the proxy, tau", f"{number(fidelity['kendall_tau'])}{below}"),
        ("95% interval of tau", f"{number(low)} to {number(high)}"),
        ("regret of its first choice", f"{number(fidelity['regret_points'])} points"),
        ("architectures ranked", f"{fidelity['architectures']}{few}"),
        *(_control_rows(fidelity["control"]) if fidelity.get("control") else []),
        *([("architectures not evaluated", f"{failed}")] if (failed := fidelity.get("failed")) else []),
    ]
