"""The section of the report on the health of a search."""

from lightning_nas.report.curves import Point, panel
from lightning_nas.report.draw import draw_curves, svg
from lightning_nas.report.run import Run
from lightning_nas.report.sections import _figure, _note, _section, _table, _text

QUANTITIES = {
    "health/parameter_free": "share of operations without weights",
    "health/skip": "share of skip connections",
    "health/entropy": "entropy of the factors, 1 where all are equal",
    "health/eigenvalue": "largest eigenvalue of the Hessian by the alphas",
    "health/sharpness": "rise of the loss near the weights",
    "health/gap": "how much worse the supernet is when discretized",
    "health/unchanged": "epochs without a change of the architecture",
}
"""What is drawn together, by the start of the metrics' names."""


def rows(curves: dict[str, list[Point]]) -> list[tuple[str, float, float, float]]:
    """Name, first, last and largest value of every metric of the health monitor.

    Args:
        curves: Points by metric, see ``read_curves``.
    """
    found = []
    for name, points in sorted(curves.items()):
        values = [point.value for point in points if name.startswith("health/")]
        if values:
            found.append((name.removeprefix("health/"), values[0], values[-1], max(values)))
    return found


def health(run: Run) -> str:
    """Curves and figures of every stage that ``HealthMonitor`` has watched; empty where it has watched none."""
    parts = []
    for stage, logged in run.curves.items():
        figures = rows(logged)
        if not figures:
            continue
        made = []
        for start, words in QUANTITIES.items():
            shown = panel(logged, start)
            if shown is not None:
                log = shown.log and start == "health/eigenvalue"
                picture = svg(draw_curves(shown.series, words, log=log, xlabel=shown.xlabel), f"{words}, {stage}")
                skipped = f"{shown.skipped} values were not finite and are left out." if shown.skipped else ""
                made.append(_figure(picture, skipped, most=560))
        lines = [("", [_text(name), *(f"{value:.4g}" for value in values)]) for name, *values in figures]
        table = _table(["", "first", "last", "largest"], lines, numbers=(1, 2, 3))
        parts.append(f'<h3>{_text(stage)}</h3><div class="pair">{"".join(made)}</div>{table}')
    if not parts:
        return ""
    return _section("Health of the search", _note("Measured by HealthMonitor after epochs of the search."), *parts)
