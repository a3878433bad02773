"""The pictures of a study: points per seed with intervals, and the best so far after every query."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_nas.compare.config import Metric
from lightning_nas.compare.results import Result
from lightning_nas.compare.statistics import LEVEL, interval
from lightning_nas.compare.table import Row
from lightning_nas.report.figures import COLOURS, GRID, INK, QUIET, as_text, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OPACITY = 0.55


def draw_points(rows: Sequence[Row], metric: Metric) -> "Figure":
    """Draw the value of every seed as a dot, and the mean with its bootstrap interval, one line per entry.

    Args:
        rows: Rows of one data set.
        metric: The metric.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.6, 0.34 * len(rows) + 0.9)
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        values = [row.values[seed] for seed in sorted(row.values)]
        colour = COLOURS[place % len(COLOURS)]
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        axes.scatter(values, place + spread, s=16, color=colour, alpha=_OPACITY, linewidths=0, zorder=3)
        ends = interval(values)
        if ends is not None:
            axes.plot(ends, (place, place), color=INK, lw=1.6, solid_capstyle="butt", zorder=4)
        axes.plot(row.spread.mean, place, marker="D", color=INK, ms=5, zorder=5)
    axes.set_yticks(range(len(rows)), [as_text(row.entry) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(as_text(metric.label), fontsize=9, color=INK)
    style_axes(axes)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=8)
    return figure


def draw_curves(curves: Mapping[str, Sequence[Sequence[float]]], label: str) -> "Figure":
    """Draw the best so far over the number of queries: the mean over seeds, and the range of the middle half.

    Args:
        curves: Curves by entry, one per seed. A search that ended early keeps its last value.
        label: Label of the values.
    """
    from matplotlib.ticker import ScalarFormatter

    figure = new_figure(5.6, 3.4)
    axes = figure.add_subplot()
    means = []
    for place, (name, given) in enumerate(curves.items()):
        length = max(map(len, given))
        values = np.array([[*curve, *[curve[-1]] * (length - len(curve))] for curve in given])
        queries = np.arange(1, length + 1)
        colour, style = COLOURS[place % len(COLOURS)], "-" if place < len(COLOURS) else "--"
        means.append(values.mean(0).tolist())
        axes.plot(queries, means[-1], style, color=colour, lw=1.6, label=as_text(name))
        if len(values) > 2:
            low, high = np.quantile(values, [0.25, 0.75], axis=0)
            axes.fill_between(queries, low, high, color=colour, alpha=0.1, lw=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    _frame(axes)
    _zoom(axes, means)
    axes.set_xlabel("queries", fontsize=9, color=INK)
    axes.set_ylabel(as_text(label), fontsize=9, color=INK)
    axes.legend(fontsize=7, frameon=False, ncols=1 + (len(curves) > 6))
    return figure


def _frame(axes: "Axes") -> None:
    """Give logarithmic axes the quiet frame of all pictures."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors="#475569", labelsize=8, length=3)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _zoom(axes: "Axes", means: Sequence[Sequence[float]]) -> None:
    """Let all but the first tenth of the queries set the range: values there are those of random architectures."""
    later = [value for mean in means for value in mean[len(mean) // 10 :]]
    margin = 0.08 * (max(later) - min(later)) or 1.0
    axes.set_ylim(min(later) - margin, max(later) + margin)


def by_entry(results: Sequence[Result]) -> dict[str, list[Sequence[float]]]:
    """The curves of queries by entry, without entries that make none.

    Args:
        results: Results of one data set.
    """
    found: dict[str, list[Sequence[float]]] = {}
    for result in results:
        if len(result.curve) > 1:
            found.setdefault(result.run.entry, []).append(result.curve)
    return found


def describe(rows: Sequence[Row], metric: Metric) -> str:
    """Describe the picture of ``draw_points`` for screen readers.

    Args:
        rows: Its rows.
        metric: The metric.
    """
    parts = [f"{row.entry} {row.spread.mean:.4g}" for row in rows]
    return f"{metric.name} of every seed, with means and {100 * LEVEL:.0f} % intervals: {', '.join(parts)}."
