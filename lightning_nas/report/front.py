"""The Pareto front of a search: the architectures that no other one beats in both the objective and the costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArtifactError, ConfigError, DataError
from lightning_nas.files.artifacts import read_json
from lightning_nas.metrics.evaluation import Evaluation, sign_of
from lightning_nas.metrics.pareto import front
from lightning_nas.report.figures import COLOURS, INK, QUIET, as_text, new_figure, style_axes
from lightning_nas.spaces.artifact import architecture_from_dict, build_space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REPAIR = "Run the search again: it writes the file at its end."


class Front:
    """The Pareto front of all architectures that a search has evaluated.

    An architecture is on the front if no other one dominates it, that is, is at least as good in the objective and in
    all costs and better in one of them.

    Attributes:
        points: Objective and costs of every architecture, in the order in which they were evaluated.
        members: Indices of the architectures on the front, sorted by the first cost. Equal points are all members.
        chosen: Index of the architecture with the best objective; the first of equal ones.

    Args:
        results: Every architecture with its evaluation, at least one, such as ``QueryHistory.comparable``.
        objective: Name of the objective. Lower is better if the name ends in ``loss``, and higher otherwise.
        costs: Names of the costs, at least one. Lower is better.

    Raises:
        ConfigError: There are no results, no cost is named, or an evaluation lacks the objective or a cost.
        DataError: A value is not finite.

    Example:
        ```python
        front = Front.load("runs/nsga2/front.json")
        for row in front.rows():
            print(row["architecture"], row["objectives"], row["cost"])
        ```
    """

    def __init__(
        self, results: Sequence[tuple[Architecture, Evaluation]], objective: str, costs: Sequence[str]
    ) -> None:
        if not results or not costs:
            raise ConfigError(
                f"A front of {len(results)} evaluations over {objective!r} and the costs {list(costs)} was requested: "
                "it would be empty. Evaluate some architectures, and name at least one cost."
            )
        for _, evaluation in results:
            missing = [objective] * (objective not in evaluation.objectives)
            missing += [name for name in costs if name not in evaluation.cost]
            if missing:
                raise ConfigError(
                    f"A front over {objective!r} and the costs {list(costs)} would be empty: an evaluation has the "
                    f"objectives {sorted(evaluation.objectives)} and the costs {sorted(evaluation.cost)}, not "
                    f"{missing}. Choose among these; the evaluator CostEvaluator adds costs."
                )
        self.results = list(results)
        self.objective = objective
        self.costs = tuple(costs)
        self.points = [(e.objectives[objective], *(e.cost[name] for name in costs)) for _, e in results]
        values = self._values(range(1 + len(costs)))
        self.members = sorted(front(values), key=lambda i: (self.points[i][1:], i))
        self.chosen = int(values[:, 0].argmax())

    def _values(self, columns: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Select columns of the points, with signs such that higher is better.

        Raises:
            DataError: A value is not finite.
        """
        values = np.array(self.points, dtype=np.float64)
        if not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
            raise DataError(
                f"Evaluations {rows[:5]} of {len(values)} have values that are not finite. Leave these architectures "
                "out of the space, or fix the evaluator."
            )
        signs = [sign_of(self.objective), *(-1.0 for _ in self.costs)]
        return (values * signs)[:, list(columns)]

    def rows(self) -> list[dict[str, Any]]:
        """Return text, choices, objectives and cost of every member as JSON values, in the order of ``members``."""
        members = [self.results[i] for i in self.members]
        return [
            {
                "architecture": build_space(architecture.space).text(architecture),
                "choices": list(architecture.choices),
                "objectives": dict(evaluation.objectives),
                "cost": dict(evaluation.cost),
            }
            for architecture, evaluation in members
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``front.json``: the front and all evaluated architectures."""
        evaluated = [
            {"choices": list(a.choices), "objectives": dict(e.objectives), "cost": dict(e.cost)}
            for a, e in self.results
        ]
        return {
            "objective": self.objective,
            "costs": list(self.costs),
            "space": self.results[0][0].to_dict()["space"],
            "front": self.rows(),
            "evaluated": evaluated,
        }

    @classmethod
    def load(cls, path: str | Path) -> "Front":
        """Read ``front.json``. The members are computed again from all evaluated architectures.

        Raises:
            ArchitectureError: An architecture does not belong to its space.
            ArtifactError: The file is missing, truncated, foreign or of a newer schema.
        """
        content = read_json(path, repair=_REPAIR)
        try:
            objective, costs, space = content["objective"], content["costs"], content["space"]
            results = [
                (
                    architecture_from_dict({"space": space, "choices": row["choices"]}),
                    Evaluation(_numbers(row["objectives"]), _numbers(row["cost"])),
                )
                for row in content["evaluated"]
            ]
            return cls(results, str(objective), [str(name) for name in costs])
        except (LookupError, TypeError, ValueError, AttributeError, ConfigError, DataError) as error:
            raise ArtifactError(f"{path} does not contain a front ({error!r:.300}). {_REPAIR}") from None

    def pictures(self) -> dict[str, "Figure"]:
        """Draw the objective over each cost, and return one figure per cost by its name."""
        return {name: self._picture(place) for place, name in enumerate(self.costs, 1)}

    def _picture(self, place: int) -> "Figure":
        """Draw the objective over one cost.

        With several costs, members of the front may lie below the line, which is the front of this cost alone.

        Args:
            place: Column of the cost in ``points``.
        """
        from matplotlib.ticker import AutoLocator, EngFormatter

        values = np.array(self.points, dtype=np.float64)[:, [place, 0]]
        best = sorted(front(self._values([0, place])), key=lambda i: self.points[i][place])
        figure = new_figure(4.4, 2.8)
        axes: Axes = figure.add_subplot()
        axes.scatter(values[:, 0], values[:, 1], s=18, color=QUIET, alpha=0.75, linewidths=0, label="evaluated")
        if len(self.costs) > 1:
            label = f"on the front of all costs: {len(self.members)}"
            x, y = values[self.members].T
            axes.scatter(x, y, s=22, color=COLOURS[0], alpha=0.45, linewidths=0, label=label)
        label = f"not dominated: {len(best)} of {len(values)}"
        # a step, because at a price between two of them the cheaper one is the best that is affordable
        x, y = values[best].T
        axes.step(x, y, where="post", color=COLOURS[0], lw=1.2, marker="o", ms=4.5, label=label)
        x, y = values[self.chosen]
        axes.scatter(x, y, s=80, facecolors="none", edgecolors=COLOURS[1], lw=1.6, zorder=3, label="chosen")
        axes.set_xlabel(as_text(self.costs[place - 1]), fontsize=9, color=INK)
        axes.set_ylabel(as_text(self.objective), fontsize=9, color=INK)
        style_axes(axes)
        axes.xaxis.set_major_locator(AutoLocator())
        if values[:, 0].max() >= 1000:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
        return figure


def _numbers(given: Any) -> dict[str, float]:
    return {str(name): float(value) for name, value in given.items()}
