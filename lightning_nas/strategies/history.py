"""The query history of a search."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.files.artifacts import write_json
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.strategies.base import Result, Strategy


class QueryHistory:
    """Runs the generations of a search and records every query.

    Attributes:
        results: All architectures with their evaluations, in the order of the queries.

    Args:
        space: The search space.
        evaluator: The evaluator.
        budget: Number of queries in the whole search, at least 1.
        objective: Name of the evaluator's objective that decides; lower is better where the name ends in ``loss``.

    Raises:
        ConfigError: ``budget`` is less than 1.

    Example:
        ```python
        history = QueryHistory(space, evaluator, budget=150)
        strategy = RegularizedEvolution()
        strategy.start(space, seed=0)
        while history.step(strategy, 10):
            pass
        architecture, evaluation = history.best
        ```
    """

    def __init__(self, space: SearchSpace, evaluator: Evaluator, budget: int, objective: str = "accuracy") -> None:
        at_least(1, budget=budget)
        self.space = space
        self.evaluator = evaluator
        self.budget = budget
        self.objective = objective
        self.results: list[Result]
        self._version: tuple[int, int]  # the evaluator's version, and the first query that it has evaluated
        self.clear()

    def clear(self) -> None:
        """Forget all queries."""
        self.results = []
        self._version = (self.evaluator.version, 0)

    @property
    def left(self) -> int:
        """Number of queries that are left in the budget."""
        return self.budget - len(self.results)

    def step(
        self, strategy: Strategy, count: int, train: Callable[[Sequence[Architecture]], None] | None = None
    ) -> list[Result]:
        """Run one generation: the strategy asks, the evaluator evaluates, the strategy is told.

        Args:
            strategy: A strategy that has been told the results so far.
            count: The largest number of architectures; the budget may leave fewer.
            train: Called with the proposed architectures before they are evaluated, for example to train a supernet on
                them.

        Returns:
            The evaluated architectures; an empty list ends the search.
        """
        asked = strategy.ask(min(count, self.left)) if self.left else []
        self.evaluator.begin(strategy.round)
        if asked and train is not None:
            train(asked)
        found = list(zip(asked, self.evaluator.evaluate(asked) if asked else [], strict=True))
        if self.evaluator.version != self._version[0]:
            self._version = (self.evaluator.version, len(self.results))
        strategy.tell(found)
        self.results += found
        return found

    @property
    def best(self) -> Result:
        """The best result of the evaluator's current version; among equals the first.

        Raises:
            ConfigError: Nothing has been evaluated.
        """
        return self.results[self._best]

    @property
    def comparable(self) -> list[Result]:
        """The results of the evaluator's current version, in the order of the queries."""
        return self.results[self._version[1] :]

    @property
    def _best(self) -> int:
        if not self.results:
            raise ConfigError(
                "Nothing was evaluated: the strategy had nothing to ask for, because it found no architecture in the "
                "space. Use a larger space or weaker constraints."
            )
        sign = -1.0 if self.objective.endswith("loss") else 1.0
        places = range(self._version[1], len(self.results))
        return max(places, key=lambda i: sign * self.results[i][1].objectives[self.objective])

    def rows(self) -> list[dict[str, Any]]:
        """One row per query as JSON values: the text of the architecture, its objectives and its costs."""
        return [self._row(*result) for result in self.results]

    def _row(self, architecture: Architecture, evaluation: Evaluation) -> dict[str, Any]:
        return {
            "architecture": self.space.text(architecture),
            "objectives": dict(evaluation.objectives),
            "cost": dict(evaluation.cost),
        }

    def write(self, folder: Path, final_evaluator: Evaluator | None = None, **provenance: Any) -> dict[str, list[Path]]:
        """Write the best architecture to ``architecture.json`` and every query to ``history.json``.

        Args:
            folder: The folder of the files.
            final_evaluator: Evaluates the best architecture once more, for example by test accuracy; its objectives
                are written as ``reported``. None by default.
            **provenance: Further JSON values about the search.

        Returns:
            The files by kind of artifact.
        """
        seconds = [evaluation.cost.get("seconds") for _, evaluation in self.results]
        known = [value for value in seconds if value is not None]
        best = self.best
        found = {
            **provenance,
            "evaluator": type(self.evaluator).__name__,
            "objective": self.objective,
            "queries": len(self.results),
            "queries_to_best": self._best + 1,
            "evaluation_seconds": sum(known) if len(known) == len(seconds) else None,
            **self._row(*best),
        }
        if final_evaluator is not None:
            (reported,) = final_evaluator.evaluate([best[0]])
            found["reported"] = dict(reported.objectives)
        written = best[0].save(folder / "architecture.json", **found)
        history = write_json(folder / "history.json", {**found, "history": self.rows()})
        return {"architecture": [written], "history": [history]}

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs, as numbers and text."""
        return {
            "evaluator": self.evaluator.state_dict(),
            "version": list(self._version),
            "results": [
                {"choices": list(a.choices), "objectives": dict(e.objectives), "cost": dict(e.cost)}
                for a, e in self.results
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: The state of a search in the same space.
        """
        self.evaluator.load_state_dict(state["evaluator"])
        self._version = tuple(state["version"])
        self.results = [
            (self.space.architecture(row["choices"]), Evaluation(dict(row["objectives"]), dict(row["cost"])))
            for row in state["results"]
        ]
