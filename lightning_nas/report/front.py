"""What a search found at every price: the architectures that no other one beats in worth and costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.errors import ArtifactError, ConfigError, DataError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.files.artifacts import read_json
from lightning_nas.report.draw import COLOURS, INK, QUIET, _bare, _figure, _plain
from lightning_nas.spaces.artifact import architecture_from_dict, build_space
from lightning_nas.strategies.base import Result
from lightning_nas.strategies.pareto import front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REPAIR = "Run the search again: it writes the file at its end."


class Front:
    """The Pareto front of a search, among all that was evaluated.

    Attributes:
        points: The objective and the costs of every architecture, in the order in which they were evaluated.
        members: Places of those that none dominates (as good in all, better in something), the cheapest in the first
            cost first; equal ones are all there.
        chosen: The place of the best by the objective alone; of equals the first.

    Args:
        results: Every architecture and its evaluation, one at least, such as ``QueryHistory.comparable``.
        objective: The objective that counts; lower is better where the name ends in ``loss``.
        costs: The costs that count, one at least; lower is better.

    Raises:
        ConfigError: There are no results, no cost is named, or an evaluation has no such objective or cost.
        DataError: A value is not finite.
    """

    def __init__(self, results: Sequence[Result], objective: str, costs: Sequence[str]) -> None:
        if not results or not costs:
            raise ConfigError(
                f"A front of {len(results)} evaluations over {objective!r} and the costs {list(costs)} was asked for: "
                "it would be empty. Evaluate some architectures, and name one cost at least."
            )
        for _, evaluation in results:
            missing = [objective] * (objective not in evaluation.objectives)
            missing += [name for name in costs if name not in evaluation.cost]
            if missing:
                raise ConfigError(
                    f"A front over {objective!r} and the costs {list(costs)} would be empty: an evaluation has the "
                    f"objectives {sorted(evaluation.objectives)} and the costs {sorted(evaluation.cost)}, not "
                    f"{missing}. Take some of these; lightning_nas.evaluation.costs.CostEvaluator adds costs."
                )
        self.results = list(results)
        self.objective = objective
        self.costs = tuple(costs)
        self.points = [(e.objectives[objective], *(e.cost[name] for name in costs)) for _, e in results]
        values = self._values(range(1 + len(costs)))
        self.members = sorted(front(values), key=lambda i: (self.points[i][1:], i))
        self.chosen = int(values[:, 0].argmax())

    def _values(self, columns: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Columns of the points, higher is better.

        Raises:
            DataError: A value is not finite.
        """
        values = np.array(self.points, dtype=np.float64)
        if not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()
            raise DataError(
                f"Evaluations {rows[:5]} of {len(values)} have values that are not finite; leave these architectures "
                "out of the space, or mend the evaluator."
            )
        signs = [-1.0 if self.objective.endswith("loss") else 1.0, *(-1.0 for _ in self.costs)]
        return (values * signs)[:, list(columns)]

    def rows(self) -> list[dict[str, Any]]:
        """The front as JSON values: text, choices, objectives and cost of each, in the order of ``members``."""
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
        """The content of ``front.json``: the front, and what it is the front of."""
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
        """Read ``front.json``; who is on the front is found out again.

        Raises:
            ArchitectureError: An architecture is no point of its space.
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
            raise ArtifactError(f"{path} holds no front ({error!r:.300}). {_REPAIR}") from None

    def pictures(self) -> dict[str, "Figure"]:
        """One for every cost: what architectures are worth over what they cost, by the name of the cost."""
        return {name: self._picture(place) for place, name in enumerate(self.costs, 1)}

    def _picture(self, place: int) -> "Figure":
        """Draw one cost. With several, members of the front may lie below the line of this cost alone."""
        from matplotlib.ticker import AutoLocator, EngFormatter

        values = np.array(self.points, dtype=np.float64)[:, [place, 0]]
        best = sorted(front(self._values([0, place])), key=lambda i: self.points[i][place])
        figure = _figure(5.2, 3.2)
        axes: Axes = figure.add_subplot()
        axes.scatter(values[:, 0], values[:, 1], s=18, color=QUIET, alpha=0.75, linewidths=0, label="evaluated")
        if len(self.costs) > 1:
            label = f"on the front of all costs: {len(self.members)}"
            x, y = values[self.members].T
            axes.scatter(x, y, s=22, color=COLOURS[0], alpha=0.45, linewidths=0, label=label)
        label = f"not dominated: {len(best)} of {len(values)}"
        # between two of them, the cheaper one is still the best that can be paid for
        x, y = values[best].T
        axes.step(x, y, where="post", color=COLOURS[0], lw=1.2, marker="o", ms=4.5, label=label)
        x, y = values[self.chosen]
        axes.scatter(x, y, s=80, facecolors="none", edgecolors=COLOURS[1], lw=1.6, zorder=3, label="chosen")
        axes.set_xlabel(_plain(self.costs[place - 1]), fontsize=9, color=INK)
        axes.set_ylabel(_plain(self.objective), fontsize=9, color=INK)
        _bare(axes)
        axes.xaxis.set_major_locator(AutoLocator())
        if values[:, 0].max() >= 1000:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.legend(fontsize=8, frameon=False)
        return figure


def _numbers(given: Any) -> dict[str, float]:
    return {str(name): float(value) for name, value in given.items()}
