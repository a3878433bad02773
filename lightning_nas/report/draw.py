"""Pictures of a search: cells, curves, rankings, alphas and images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.report.figures import COLOURS, INK, QUIET, as_text, new_figure, style_axes
from lightning_nas.report.layout import Layout, place
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.graph import Graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONVOLUTION, OTHER = ("#dbeafe", "#1d4ed8"), ("#fef3c7", "#b45309")
"""Fill and line of operations that are called convolutions, and of all others."""

MAX_POINTS = 400
"""Points of a drawn curve; in longer curves, neighbouring points are averaged."""


# -- cells; lengths are in inches, heights of a layout in tracks ---------------------------------------------------

TRACK, NODE, FAN, PILL = 0.36, 0.36, 0.42, 1.12
COLUMN = 1.26 * NODE + 2 * FAN + PILL


def draw_cell(graph: Graph) -> "Figure":
    """Draw a cell from left to right, with each operation as a coloured label on its edge.

    Args:
        graph: The cell. Edges lead to nodes of a higher index; an edge without a label is a plain connection.
    """
    layout = place(graph)
    heights = [*layout.nodes, *layout.edges]
    low, high = min(heights), max(heights)
    width = COLUMN * max(layout.layers) + 3 * NODE
    height = TRACK * (high - low + 1.6) + 0.35
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.5 * NODE, width - 1.5 * NODE), ylim=(0, height))
    axes.set_axis_off()
    bottom = 0.35 + TRACK * 0.8 - low * TRACK
    for i in sorted(range(len(graph.edges)), key=lambda i: bool(graph.edges[i][2])):
        _draw_edge(axes, graph, layout, i, bottom)
    for label, layer, y in zip(graph.nodes, layout.layers, layout.nodes, strict=True):
        _draw_box(axes, as_text(label), layer * COLUMN, y * TRACK + bottom, NODE * 1.25, ("#ffffff", INK), 9.5)
    x = -NODE
    for colours, name in ((CONVOLUTION, "convolution"), (OTHER, "other operation")):
        if any(_kind(graph, label) == colours for _, _, label in graph.edges if label):
            _draw_box(axes, "", x + 0.1, 0.2, 0.2, colours, 7)
            axes.text(x + 0.28, 0.19, name, fontsize=7.5, color=INK, va="center")
            x += 1.2
    return figure


def _kind(graph: Graph, label: str) -> tuple[str, str]:
    return CONVOLUTION if label in graph.weighted else OTHER


def _draw_box(axes: "Axes", text: str, x: float, y: float, width: float, colours: tuple[str, str], size: float) -> None:
    """Draw a label in a rounded box around a point."""
    from matplotlib.patches import FancyBboxPatch

    height = 0.8 * TRACK if text else 0.14
    style = "round,pad=0,rounding_size=0.1" if text else "round,pad=0,rounding_size=0.04"
    corner = (x - width / 2, y - height / 2)
    box = FancyBboxPatch(
        corner,
        width,
        height,
        boxstyle=style,
        facecolor=colours[0],
        edgecolor=colours[1],
        linewidth=1,
        zorder=3,
    )
    axes.add_patch(box)
    if text:
        axes.text(
            x,
            y - 0.01,
            text,
            fontsize=size,
            color=colours[1],
            ha="center",
            va="center",
            zorder=4,
        )


def _draw_edge(axes: "Axes", graph: Graph, layout: Layout, index: int, bottom: float) -> None:
    """Draw an edge: it leaves its source, runs level on its track, where its label is, and enters its target."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    source, target, label = graph.edges[index]
    start = layout.layers[source] * COLUMN + NODE * 0.62
    end = layout.layers[target] * COLUMN - NODE * 0.64
    y = layout.edges[index] * TRACK + bottom
    y_source, y_target = (layout.nodes[node] * TRACK + bottom for node in (source, target))
    bend = FAN * 0.5
    points = [(start, y_source), (start + bend, y_source), (start + bend, y), (start + FAN, y)]
    points += [(end - FAN, y), (end - bend, y), (end - bend, y_target), (end, y_target)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
    colour = _kind(graph, label)[1] if label else QUIET
    axes.add_patch(
        FancyArrowPatch(
            path=Path(points, codes),
            arrowstyle="-|>",
            mutation_scale=8,
            color=colour,
            linewidth=1.2 if label else 0.9,
            fill=False,
            zorder=2 if label else 1,
        )
    )
    if label:
        middle = end - FAN - PILL / 2
        _draw_box(axes, as_text(label), middle, y, PILL, _kind(graph, label), 8 if len(label) < 15 else 6.5)


# -- curves, rankings, heat maps --------------------------------------------------------------------------------------


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average groups of neighbouring points, so that at most ``MAX_POINTS`` remain.

    Args:
        points: ``(x, y)`` points of a curve.
    """
    size = -(-len(points) // MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if size > 1 else [[p] for p in points]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def draw_curves(
    series: Mapping[str, Sequence[tuple[float, float]]], ylabel: str, log: bool = False, xlabel: str = "epoch"
) -> "Figure":
    """Draw one curve per series.

    Args:
        series: ``(x, y)`` points by name; a single point is drawn as a dot.
        ylabel: Label of the y-axis.
        log: Whether the y-axis is logarithmic.
        xlabel: Label of the x-axis.
    """
    figure = new_figure(4.4, 2.6)
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(series.items()):
        thinned = thin(points)
        marker = "o" if len(thinned) < 2 else "None"
        axes.plot(*zip(*thinned, strict=True), marker=marker, color=COLOURS[i % 8], lw=1.6, label=as_text(name))
    axes.set_xlabel(as_text(xlabel), fontsize=9, color=INK)
    axes.set_ylabel(as_text(ylabel), fontsize=9, color=INK)
    if log:
        axes.set_yscale("log")
    style_axes(axes)
    if series:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return figure


def draw_ranking(points: Sequence[tuple[float, float]], xlabel: str, ylabel: str, lower: bool) -> "Figure":
    """Draw the reference accuracy of architectures over their scores, and mark the one with the best score.

    Args:
        points: ``(score, accuracy)`` of every architecture.
        xlabel: Label of the scores.
        ylabel: Label of the accuracies.
        lower: Whether lower scores are better. The x-axis is then inverted, so that points of a good ranking always
            rise to the right.
    """
    figure = new_figure(4.4, 2.8)
    axes = figure.add_subplot()
    scores, accuracies = zip(*points, strict=True)
    axes.scatter(scores, accuracies, s=22, color=COLOURS[0], alpha=0.75, linewidths=0)
    x, y = (min if lower else max)(points, key=lambda point: point[0])
    axes.scatter(x, y, s=70, facecolors="none", edgecolors=COLOURS[1], lw=1.6, label="ranked first by the proxy")
    axes.set_xlabel(as_text(xlabel), fontsize=9, color=INK)
    axes.set_ylabel(as_text(ylabel), fontsize=9, color=INK)
    if lower:
        axes.invert_xaxis()
    style_axes(axes)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return figure


def draw_alphas(
    history: Tensor, title: str = "", operations: Sequence[str] = (), edges: Sequence[str] = ()
) -> "Figure":
    """Draw the mixture weights of a cell's operations: their means over the epochs, and all of them in the last one.

    Args:
        history: Mixture weights after every epoch, ``(epochs, edges, operations)``.
        title: Name of the cell.
        operations: Names of the columns; numbers by default.
        edges: Names of the rows; numbers by default.
    """
    epochs, rows, columns = history.shape
    names = [as_text(name) for name in operations] or [str(i) for i in range(columns)]
    figure = new_figure(9.6, max(3.0, 0.22 * rows + 1.3))
    curves, heat = figure.subplots(1, 2, width_ratios=(1, 1.1))
    for i, name in enumerate(names):
        values = history[:, :, i].mean(dim=1).tolist()
        style = "-" if i < len(COLOURS) else "--"
        curves.plot(range(1, epochs + 1), values, style, color=COLOURS[i % 8], lw=1.6, label=name)
    curves.set_xlabel("epoch", fontsize=9, color=INK)
    curves.set_ylabel("mean weight over edges", fontsize=9, color=INK)
    style_axes(curves)
    options: dict[str, Any] = {"fontsize": 8, "frameon": False, "labelcolor": INK, "columnspacing": 1.2}
    figure.legend(ncols=min(8, columns), loc="outside lower center", **options)
    title = f"{title}: last epoch" if title else "last epoch"
    _heat(figure, heat, history[-1], title, names, [as_text(e) for e in edges] or [str(i) for i in range(rows)])
    return figure


def draw_heat_map(factors: Tensor, title: str, operations: Sequence[str], edges: Sequence[str]) -> "Figure":
    """Draw the mixture weights of a cell's operations as a heat map with numbers, for a narrow panel.

    Args:
        factors: Mixture weights, ``(edges, operations)``.
        title: Title of the heat map, such as the name of the cell and the epoch.
        operations: Names of the columns.
        edges: Names of the rows.
    """
    rows, columns = factors.shape
    figure = new_figure(0.5 * columns + 1.9, 0.26 * rows + 1.4)
    axes = figure.add_subplot()
    largest = _heat(figure, axes, factors, title, [as_text(n) for n in operations], [as_text(e) for e in edges])
    for row, values in enumerate(factors.tolist()):
        for column, value in enumerate(values):
            colour = "white" if value > 0.6 * largest else INK
            axes.text(column, row, f"{value:.3f}", fontsize=6.5, color=colour, ha="center", va="center")
    return figure


def _heat(
    figure: "Figure", axes: "Axes", factors: Tensor, title: str, columns: Sequence[str], rows: Sequence[str]
) -> float:
    """Draw a heat map into axes, and return the value of its darkest colour."""
    values = factors.numpy(force=True)
    # equal weights, as at the start of a search, get the middle colour
    largest = float(max(values.max(), 2 * values.mean()))
    image = axes.imshow(values, cmap="Blues", aspect="auto", vmin=0, vmax=largest)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.set_yticks(range(len(rows)), rows, fontsize=7.5)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, color=INK)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.outline.set_visible(False)
    return largest


def edge_ends(space: DifferentiableSpace, graph: Graph) -> list[tuple[str, str]]:
    """Name the source and the node of every row of the alphas, where row j of a node is its edge from state j.

    Args:
        space: The space of the alphas.
        graph: A cell of any architecture of the space.

    Returns:
        One pair per row; empty for a space whose cells are drawn with other nodes.
    """
    inputs = space.nodes[0].stop
    if len(graph.nodes) < inputs + len(space.nodes):
        return []
    return [
        (graph.nodes[source], graph.nodes[inputs + node])
        for node, edges in enumerate(space.nodes)
        for source in range(edges.stop - edges.start)
    ]


def edge_names(space: DifferentiableSpace, graph: Graph) -> list[str]:
    """Name the rows of the alphas: ``source → node``, or numbers where ``edge_ends`` is empty."""
    ends = edge_ends(space, graph)
    return [f"{source} → {node}" for source, node in ends] or [str(row) for row in range(space.edges)]


# -- images -----------------------------------------------------------------------------------------------------------


def draw_images(rows: Sequence[tuple[str, Tensor]]) -> "Figure":
    """Draw rows of images, each with a title. ``png_data_uri`` with its default resolution keeps them sharp.

    Args:
        rows: Title and images ``(n, channels, height, width)`` in [0, 1] of every row, all of one size. Images of
            three channels are shown in colour, all others as the mean of their channels.
    """
    tiles = [_tiles(images) for _, images in rows]
    gap = 6
    height, width = (tiles[0].shape[1] + gap, tiles[0].shape[2] + gap) if tiles else (1, 1)
    columns = max((len(tile) for tile in tiles), default=0)
    canvas = torch.ones(max(1, height * len(tiles)), max(1, width * columns), 3)
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            canvas[i * height : (i + 1) * height - gap, j * width : (j + 1) * width - gap] = tile
    titles = [title if len(title) <= 18 else title[:17] + "…" for title, _ in rows]
    left = 7 * max(map(len, titles), default=0) + 10
    whole = left + canvas.shape[1]
    # at 100 pixels per inch, a pixel of the canvas is a pixel of the picture
    figure = new_figure(whole / 100, canvas.shape[0] / 100)
    figure.set_layout_engine("none")
    axes = figure.add_axes((left / whole, 0, canvas.shape[1] / whole, 1))
    axes.set_axis_off()
    axes.imshow(canvas.numpy(), interpolation="nearest", aspect="auto")
    for i, title in enumerate(titles):
        middle = 1 - (i * height + (height - gap) / 2) / canvas.shape[0]
        x = (left - 6) / whole
        figure.text(x, middle, as_text(title), ha="right", va="center", fontsize=8, color=INK)
    return figure


def _tiles(images: Tensor) -> Tensor:
    """Resize images to colour tiles ``(n, height, width, 3)`` of about 64 pixels, without smoothing small ones."""
    images = images.detach().float().cpu().nan_to_num().clamp(0, 1)
    if images.shape[1] != 3:
        images = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    side = max(images.shape[2:])
    if side > 96:
        images = F.interpolate(images, scale_factor=64 / side, mode="area")
    else:
        images = images.repeat_interleave(max(1, 64 // side), 2).repeat_interleave(max(1, 64 // side), 3)
    return images.permute(0, 2, 3, 1)
