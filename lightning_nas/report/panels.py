"""The pictures and tables of a report page, ready for its templates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_nas.metrics.evaluation import sign_of
from lightning_nas.report.curves import Point, panel
from lightning_nas.report.draw import draw_alphas, draw_cell, draw_curves, draw_images, draw_ranking
from lightning_nas.report.figures import png_data_uri, svg
from lightning_nas.report.front import Front
from lightning_nas.report.networks import Network
from lightning_nas.report.rivals import COSTS, draw_costs, draw_learning, learning_curves
from lightning_nas.report.run import Run
from lightning_nas.spaces.graph import Graph

MAX_CLASSES, MAX_IMAGES = 10, 8
"""How many classes, and how many images per class, a page shows."""

QUANTITIES = {word: word for word in ("loss", "accuracy", "tau", "diversity")}
"""Labels of the curves of a stage, by the word that the names of their metrics contain."""

HEALTH = {
    "health/parameter_free": "share of operations without weights",
    "health/skip": "share of skip connections",
    "health/entropy": "entropy of the factors (1: all equal)",
    "health/eigenvalue": "largest eigenvalue of the alphas' Hessian",
    "health/smallest_eigenvalue": "smallest eigenvalue of the alphas' Hessian",
    "health/sharpness": "rise of the loss around the weights",
    "health/gap": "discretization gap",
    "health/unchanged": "epochs since the architecture changed",
}
"""Labels of the curves of ``HealthMonitor``, by the beginning of their metrics' names."""

LEARNING = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
"""Metrics whose curves are drawn for all networks on one axis."""

LOGARITHMIC = ("loss", "health/eigenvalue")
"""Quantities whose axis may be logarithmic."""


@dataclass(frozen=True)
class Picture:
    """A picture on a page: either an SVG or an image.

    Attributes:
        title: Its heading; may be empty.
        svg: An ``<svg>`` element.
        src: Address of an image.
        alt: Description of the image for screen readers; an SVG has its own.
        caption: Text below it.
        min_width: Smallest width in pixels, 0 for none; a narrower window scrolls the picture.
        max_width: Largest width in pixels, 0 for none.
        edges: Source, target and operation of every edge of a drawn cell.
    """

    title: str = ""
    svg: str = ""
    src: str = ""
    alt: str = ""
    caption: str = ""
    min_width: int = 0
    max_width: int = 0
    edges: Sequence[tuple[str, str, str]] = ()


def cell_pictures(graphs: Sequence[Graph]) -> list[Picture]:
    """Draw cells."""
    pictures = []
    for graph in graphs:
        figure = draw_cell(graph)
        edges = [(graph.nodes[s], graph.nodes[t], label) for s, t, label in graph.edges if label]
        texts = [f"{source} to {target}: {label}" for source, target, label in edges]
        width = 96 * figure.get_figwidth()
        picture = svg(figure, f"{graph.name}. {'; '.join(texts)}.")
        low, high = int(0.7 * width), int(1.15 * width)
        pictures.append(Picture(graph.name, picture, min_width=low, max_width=high, edges=edges))
    return pictures


def alpha_pictures(run: Run) -> list[Picture]:
    """Draw heat maps and curves of the alphas, one picture per cell type."""
    pictures = []
    for name, history in run.alphas.items():
        operations = run.operations if len(run.operations) == history.shape[2] else ()
        rows = [f"{source} → {node}" for source, node in run.rows] if len(run.rows) == history.shape[1] else []
        alt = f"{name}: weights of the operations over {history.shape[0]} epochs, and by edge at the end"
        figure = draw_alphas(history, name, operations, rows)
        pictures.append(Picture(name, svg(figure, alt), min_width=640))
    return pictures


def image_pictures(run: Run) -> list[Picture]:
    """Draw images of the proxy and real images, as far as there are any."""
    titles = {"proxy": "Proxy: what the search saw", "real": "Real images of the same classes"}
    pictures = []
    for name, title in titles.items():
        if name in run.pictures:
            images = run.pictures[name][:MAX_CLASSES, :MAX_IMAGES]
            known = len(run.class_names) >= len(images)
            names = run.class_names if known else [f"class {i}" for i in range(len(images))]
            figure = draw_images(list(zip(names, images, strict=False)))
            pictures.append(Picture(title, src=png_data_uri(figure), alt=f"{title}, one row per class"))
    return pictures


def ranking_picture(run: Run) -> Picture | None:
    """Draw the reference accuracies of architectures over their scores on the proxy; None where these are missing."""
    if run.summary.fidelity is None or not run.ranked:
        return None
    objective = run.summary.fidelity["objective"]
    score = f"{objective} on the proxy"
    figure = draw_ranking(run.ranked, score, "reference accuracy", lower=sign_of(objective) < 0)
    return Picture(svg=svg(figure, f"Reference accuracy over {score}"), max_width=640)


def curve_pictures(
    stage: str, logged: Mapping[str, list[Point]], quantities: Mapping[str, str] = QUANTITIES
) -> list[Picture]:
    """Draw the curves of a stage, one picture per quantity.

    Args:
        stage: Name of the stage.
        logged: Points by metric, see ``read_curves``.
        quantities: Label of each quantity, by a part of the names of its metrics.
    """
    pictures = []
    for word, label in quantities.items():
        shown = panel(logged, word)
        if shown is None:
            continue
        figure = draw_curves(shown.series, label, log=shown.log and word in LOGARITHMIC, xlabel=shown.xlabel)
        ends = ", ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in shown.series.items())
        picture = svg(figure, f"{label} of the stage {stage} by {shown.xlabel}: {ends}")
        caption = f"Values that are not finite and were left out: {shown.skipped}." if shown.skipped else ""
        pictures.append(Picture(svg=picture, caption=caption, max_width=560))
    return pictures


@dataclass(frozen=True)
class Stage:
    """The curves of one stage.

    Attributes:
        name: Name of the stage.
        pictures: Its curves.
        rows: Name, first, last and largest value of metrics that are also listed in a table.
    """

    name: str
    pictures: list[Picture]
    rows: list[tuple[str, float, float, float]]


def training_stages(curves: Mapping[str, Mapping[str, list[Point]]]) -> list[Stage]:
    """Draw the curves of every stage, without those of ``HealthMonitor``.

    Args:
        curves: Points by stage and metric.
    """
    stages = []
    for name, logged in curves.items():
        metrics = {metric: points for metric, points in logged.items() if not metric.startswith("health/")}
        stages.append(Stage(name, curve_pictures(name, metrics), []))
    return stages


def health_stages(curves: Mapping[str, Mapping[str, list[Point]]]) -> list[Stage]:
    """Draw the curves of every stage that ``HealthMonitor`` has watched.

    Args:
        curves: Points by stage and metric.
    """
    stages = []
    for name, logged in curves.items():
        metrics = {metric: points for metric, points in logged.items() if metric.startswith("health/")}
        if metrics:
            stages.append(Stage(name, curve_pictures(name, metrics, HEALTH), health_rows(metrics)))
    return stages


def health_rows(curves: Mapping[str, list[Point]]) -> list[tuple[str, float, float, float]]:
    """List name, first, last and largest value of every metric of ``HealthMonitor``.

    Args:
        curves: Points by metric, see ``read_curves``.
    """
    rows = []
    for name, points in sorted(curves.items()):
        values = [point.value for point in points if name.startswith("health/")]
        if values:
            rows.append((name.removeprefix("health/"), values[0], values[-1], max(values)))
    return rows


def cost_pictures(found: Sequence[Network]) -> list[Picture]:
    """Draw the accuracies of all networks over each cost that is known."""
    pictures = []
    for cost, label in COSTS.items():
        known = [each for each in found if getattr(each, cost) is not None]
        if len(known) > 1:
            digits = ",.3g" if cost == "latency_ms" else ",.0f"
            texts = [f"{each.label}: {100 * each.accuracy:.2f}% at {getattr(each, cost):{digits}}" for each in known]
            picture = svg(draw_costs(known, cost), f"Test accuracy over {label}. {'; '.join(texts)}.")
            pictures.append(Picture(svg=picture, max_width=640))
    return pictures


def learning_pictures(run: Run) -> list[Picture]:
    """Draw the learning curves of all networks on one axis, one picture per metric."""
    stages = {run.summary.trained: ("found", "found")}
    stages |= {name: ("random", name) for name in run.summary.random_names}
    stages |= {each["name"]: ("standard", each["label"]) for each in run.summary.baselines}
    pictures = []
    for metric in LEARNING:
        curves, log = learning_curves(run.curves, stages, metric)
        if "found" in curves and len(curves) > 1:
            ends = ", ".join(f"{label} ends at {points[-1][1]:.4g}" for label, (_, points) in curves.items())
            figure = draw_learning(curves, metric, log and metric.endswith("loss"))
            pictures.append(Picture(svg=svg(figure, f"{metric} of all networks by epoch: {ends}"), max_width=640))
    return pictures


def front_pictures(front: Front) -> list[Picture]:
    """Draw a Pareto front, one picture per cost."""
    return [
        Picture(
            svg=svg(figure, f"{front.objective} over {cost} of all evaluated architectures, with their front"),
            max_width=640,
        )
        for cost, figure in front.pictures().items()
    ]
