"""What a search found at every price: the architectures that no other one beats in worth and costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evolution.base import Result
from lightning_nas.report.draw import COLOURS, INK, QUIET, _bare, _figure, _plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _front(values: NDArray[np.float64]) -> list[int]:
    """Rows that no other one dominates (nowhere above it, somewhere below), in their order; lower is better."""
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
        raise DataError(f"Values {rows[:5]} of {len(values)} are not finite; leave these architectures out.")
    dominated = [((values <= row).all(axis=1) & (values < row).any(axis=1)).any() for row in values]
    return np.flatnonzero(~np.array(dominated, dtype=bool)).tolist()


def _sign(objective: str) -> float:
    """What makes lower values of an objective the better ones."""
    return 1.0 if objective.endswith("loss") else -1.0


def front_rows(results: Sequence[Result], objective: str, costs: Sequence[str]) -> list[dict[str, Any]]:
    """The architectures of a search that no other one dominates: none is as good in all, and better in something.

    Args:
        results: Every architecture and its evaluation, such as ``Search.results``.
        objective: The objective that counts; lower is better where the name ends in ``loss``.
        costs: The costs that count, one at least; lower is better.

    Returns:
        JSON values as in ``history.json``: text, objectives and cost of each, the cheapest in the first cost first.

    Raises:
        ConfigError: No cost is named, or an evaluation has no such objective or cost.
        DataError: A value is not finite.
    """
    for _, evaluation in results:
        missing = [objective] * (objective not in evaluation.objectives)
        missing += [name for name in costs if name not in evaluation.cost]
        if missing or not costs:
            raise ConfigError(
                f"A front over {objective!r} and the costs {list(costs)} was asked for; an evaluation has the "
                f"objectives {sorted(evaluation.objectives)} and the costs {sorted(evaluation.cost)}. Take one of "
                "these, and one cost at least; lightning_nas.evaluation.costs.Costs adds costs."
            )
    values = [[*(e.cost[name] for name in costs), _sign(objective) * e.objectives[objective]] for _, e in results]
    found = _front(np.array(values, dtype=np.float64).reshape(len(results), -1)) if results else []
    return [
        {
            "architecture": results[i][0].space.build().text(results[i][0]),
            "objectives": dict(results[i][1].objectives),
            "cost": dict(results[i][1].cost),
        }
        for i in sorted(found, key=values.__getitem__)
    ]


def front_picture(points: Sequence[tuple[float, float]], names: tuple[str, str], chosen: int | None = None) -> "Figure":
    """Draw what architectures are worth over what they cost, with those that no other one dominates.

    For a page by ``draw.svg``, for W&B by ``draw.png``.

    Args:
        points: ``(cost, worth)`` of every architecture, one at least.
        names: Names of cost and worth; lower worth is better where its name ends in ``loss``.
        chosen: Index of the architecture that was chosen, which is marked; none if None.

    Raises:
        DataError: There are no points, or a value is not finite.
    """
    from matplotlib.ticker import AutoLocator, EngFormatter

    if not points:
        raise DataError("A picture of no architectures was asked for; give one point at least.")
    values = np.array(points, dtype=np.float64)
    best = sorted(_front(values * (1.0, _sign(names[1]))), key=lambda i: points[i])
    figure = _figure(5.2, 3.2)
    axes = figure.add_subplot()
    axes.scatter(values[:, 0], values[:, 1], s=18, color=QUIET, alpha=0.75, linewidths=0, label="evaluated")
    front = values[best]
    label = f"not dominated: {len(best)} of {len(points)}"
    # between two of them, the cheaper one is still the best that can be paid for
    axes.step(front[:, 0], front[:, 1], where="post", color=COLOURS[0], lw=1.2, marker="o", ms=4.5, label=label)
    if chosen is not None:
        x, y = points[chosen]
        axes.scatter(x, y, s=80, facecolors="none", edgecolors=COLOURS[1], lw=1.6, zorder=3, label="chosen")
    axes.set_xlabel(_plain(names[0]), fontsize=9, color=INK)
    axes.set_ylabel(_plain(names[1]), fontsize=9, color=INK)
    _bare(axes)
    axes.xaxis.set_major_locator(AutoLocator())
    if values[:, 0].max() >= 1000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(fontsize=8, frameon=False)
    return figure
