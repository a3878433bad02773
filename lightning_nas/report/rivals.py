"""Pictures that compare all networks of a run: accuracy against costs, and learning curves on one axis."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_nas.report.curves import Point, panel
from lightning_nas.report.draw import thin
from lightning_nas.report.figures import COLOURS, INK, MUTED, as_text, new_figure, style_axes
from lightning_nas.report.networks import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = {"random": (MUTED, "o", 5.0), "standard": (COLOURS[3], "s", 6.0), "found": (COLOURS[0], "D", 7.5)}
"""Colour, marker and size of every kind of network; the last one is drawn on top."""

COSTS = {
    "macs": "multiply-accumulates per image",
    "parameters": "parameters",
    "latency_ms": "milliseconds per image, as measured",
}
"""Labels of the costs."""


def draw_costs(networks: Sequence[Network], cost: str) -> "Figure":
    """Draw test accuracies with their intervals over a cost.

    Args:
        networks: Networks with that cost.
        cost: ``macs``, ``parameters`` or ``latency_ms``.
    """
    from matplotlib.ticker import AutoLocator, EngFormatter, LogLocator, NullFormatter, ScalarFormatter

    figure = new_figure(4.4, 2.9)
    axes = figure.add_subplot()
    values = [float(getattr(each, cost)) for each in networks]
    for kind, (colour, marker, size) in STYLES.items():
        chosen = [(x, each) for x, each in zip(values, networks, strict=True) if each.kind == kind]
        for i, (x, each) in enumerate(chosen):
            low, high = each.ends
            axes.plot([x, x], [100 * low, 100 * high], color=colour, lw=1.4, alpha=0.7)
            label = kind if i == 0 else None
            axes.plot([x], [100 * each.accuracy], marker, color=colour, ms=size, label=label, ls="None")
    axes.set_xlabel(COSTS[cost], fontsize=9, color=INK)
    axes.set_ylabel("test accuracy in %", fontsize=9, color=INK)
    style_axes(axes)
    if min(values) > 0 and max(values) > 4 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if max(values) < 30 * min(values):  # powers of ten alone would leave an axis without numbers
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    else:
        axes.xaxis.set_major_locator(AutoLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter() if cost == "latency_ms" else EngFormatter(sep=""))
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return figure


def draw_learning(curves: Mapping[str, tuple[str, Sequence[tuple[float, float]]]], ylabel: str, log: bool) -> "Figure":
    """Draw learning curves of all networks on one axis.

    Args:
        curves: Kind of every network and its points ``(epoch, value)``, by its label.
        ylabel: Label of the y-axis.
        log: Whether the y-axis is logarithmic.
    """
    figure = new_figure(4.4, 2.8)
    axes = figure.add_subplot()
    named: set[str] = set()
    for place, (kind, (colour, _, _)) in enumerate(STYLES.items()):
        chosen = [(label, points) for label, (each, points) in curves.items() if each == kind]
        for i, (label, points) in enumerate(chosen):
            line = "-" if kind != "standard" else ("-", "--", ":", "-.")[i % 4]
            name = label if kind != "random" else f"{len(chosen)} random"
            axes.plot(
                *zip(*thin(points), strict=True),
                line,
                color=colour,
                lw=2.2 if kind == "found" else 1.2,
                alpha=0.8 if kind == "random" else 1,
                label=None if name in named else as_text(name),
                zorder=2 + place,
                marker="o" if len(points) < 2 else "None",
                ms=4,
            )
            named.add(name)
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    axes.set_ylabel(as_text(ylabel), fontsize=9, color=INK)
    if log:
        axes.set_yscale("log")
    style_axes(axes)
    axes.legend(fontsize=7.5, frameon=False, labelcolor=INK)
    return figure


def learning_curves(
    curves: Mapping[str, Mapping[str, list[Point]]], stages: Mapping[str, tuple[str, str]], metric: str
) -> tuple[dict[str, tuple[str, list[tuple[float, float]]]], bool]:
    """Collect the curve of one metric of all networks.

    Args:
        curves: Points by stage and metric.
        stages: Kind and label of every network, by the stage of its first training.
        metric: Name of the metric.

    Returns:
        Kind and points by label, as ``draw_learning`` takes them, and whether a logarithmic axis suits them.
    """
    found, logs = {}, []
    for stage, (kind, label) in stages.items():
        points = curves.get(stage, {}).get(metric)
        shown = panel({metric: points}, metric) if points else None
        if shown is not None:
            found[label] = (kind, shown.series[metric])
            logs.append(shown.log)
    return found, any(logs)
