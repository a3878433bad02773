"""The account of a search: what was queried, and what is the best of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.files.artifacts import write_json
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.strategies.base import Result, Strategy


class QueryHistory:
    """Lets strategies ask, an evaluator answer, and keeps the account.

    Attributes:
        results: Every architecture and its evaluation, in the order of the queries.

    Args:
        space: What is searched.
        evaluator: What answers.
        budget: Queries in all, at least 1.
        objective: Which of the evaluator's objectives decides; lower is better where the name ends in ``loss``.

    Raises:
        ConfigError: ``budget`` is below 1.
    """

    def __init__(self, space: SearchSpace, evaluator: Evaluator, budget: int, objective: str = "accuracy") -> None:
        if budget < 1:
            raise ConfigError(f"budget is {budget}; it must be at least 1 query.")
        self.space = space
        self.evaluator = evaluator
        self.budget = budget
        self.objective = objective
        self.results: list[Result]
        self._version: tuple[int, int]
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.results = []
        self._version = (self.evaluator.version, 0)

    @property
    def left(self) -> int:
        """Queries that the budget leaves."""
        return self.budget - len(self.results)

    def step(
        self, strategy: Strategy, count: int, train: Callable[[Sequence[Architecture]], None] | None = None
    ) -> list[Result]:
        """One generation: the strategy asks, the evaluator evaluates, the strategy is told.

        Args:
            strategy: Which knows the results so far.
            count: Architectures at most; fewer where the budget leaves fewer.
            train: What moves the evaluator before it evaluates, given the architectures.

        Returns:
            What was asked for, evaluated; empty where the search is over.
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
        """The best so far, among those that the evaluator's present version has evaluated; of equals the first.

        Raises:
            ConfigError: Nothing was evaluated.
        """
        return self.results[self._best]

    @property
    def comparable(self) -> list[Result]:
        """What the evaluator's present version has evaluated, in the order of the queries."""
        return self.results[self._version[1] :]

    @property
    def _best(self) -> int:
        if not self.results:
            raise ConfigError(
                "Nothing was evaluated: the strategy had nothing to ask for, because the space has no architecture for "
                "it. Use a larger space or higher limits."
            )
        sign = -1.0 if self.objective.endswith("loss") else 1.0
        places = range(self._version[1], len(self.results))
        return max(places, key=lambda i: sign * self.results[i][1].objectives[self.objective])

    def rows(self) -> list[dict[str, Any]]:
        """One entry a query, as JSON values: the architecture's text, its objectives and its cost."""
        return [self._row(*result) for result in self.results]

    def _row(self, architecture: Architecture, evaluation: Evaluation) -> dict[str, Any]:
        return {
            "architecture": self.space.text(architecture),
            "objectives": dict(evaluation.objectives),
            "cost": dict(evaluation.cost),
        }

    def write(self, folder: Path, final_evaluator: Evaluator | None = None, **provenance: Any) -> dict[str, list[Path]]:
        """Write ``architecture.json``, the best, and ``history.json``, every query.

        Args:
            folder: Where to.
            final_evaluator: What looks at the best architecture once more, such as by test accuracies.
            **provenance: What else to say of the search, as JSON values.

        Returns:
            The files, by the kind of artifact.
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
        """What a search goes on from: numbers and text."""
        return {
            "evaluator": self.evaluator.state_dict(),
            "version": list(self._version),
            "results": [
                {"choices": list(a.choices), "objectives": dict(e.objectives), "cost": dict(e.cost)}
                for a, e in self.results
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back."""
        self.evaluator.load_state_dict(state["evaluator"])
        self._version = tuple(state["version"])
        self.results = [
            (self.space.architecture(row["choices"]), Evaluation(dict(row["objectives"]), dict(row["cost"])))
            for row in state["results"]
        ]
