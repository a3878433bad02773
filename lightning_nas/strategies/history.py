"""The query history of a search."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation, Evaluator, evaluate_each, sign_of
from lightning_nas.files.artifacts import write_json
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.strategies.base import Result, Strategy

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedQuery:
    """A query whose evaluation failed.

    Attributes:
        query: Number of the query in the search, from 1.
        architecture: The architecture.
        reason: Why the evaluation failed.
    """

    query: int
    architecture: Architecture
    reason: str


class QueryHistory:
    """Runs the generations of a search and records every query.

    An evaluation fails if it raises an error that is its own (see ``is_failure``), or if its objective, or a cost that
    the search needs, is not finite. It counts as a query, and is recorded with its reason. The strategy is told that
    the evaluation failed, but no number of it, and the search goes on until more than ``max_failures`` have failed.

    Attributes:
        results: All architectures with their evaluations, in the order of the queries, without those that failed.
        failures: The queries that failed, in their order.

    Args:
        space: The search space.
        evaluator: The evaluator.
        budget: Number of queries in the whole search, at least 1.
        objective: Name of the evaluator's objective that decides; lower is better where the name ends in ``loss``.
        costs: Names of costs that the search needs besides the objective.
        max_failures: Number of queries that may fail, at least 0.

    Raises:
        ConfigError: ``budget`` is less than 1, or ``max_failures`` is less than 0.

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

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator,
        budget: int,
        objective: str = "accuracy",
        costs: Sequence[str] = (),
        max_failures: int = 10,
    ) -> None:
        at_least(1, budget=budget)
        at_least(0, max_failures=max_failures)
        self.space = space
        self.evaluator = evaluator
        self.budget = budget
        self.objective = objective
        self.costs = tuple(costs)
        self.max_failures = max_failures
        self.results: list[Result]
        self.failures: list[FailedQuery]
        self._winner: Architecture | None
        self._version: tuple[int, int]  # the evaluator's version, and the first query that it has evaluated
        self._leader: int | None  # place of the best result of this version among those that were looked at
        self._seen: int  # number of results that were looked at for the leader
        self.clear()

    def clear(self) -> None:
        """Forget all queries."""
        self.results = []
        self.failures = []
        self._winner = None
        self._version = (self.evaluator.version, 0)
        self._look_again()

    def _look_again(self) -> None:
        """Forget which result is the best."""
        self._leader, self._seen = None, 0

    @property
    def left(self) -> int:
        """Number of queries that are left in the budget."""
        return self.budget - self.queries

    @property
    def queries(self) -> int:
        """Number of queries so far, those that failed included."""
        return len(self.results) + len(self.failures)

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
            The architectures that the strategy has asked for, with their evaluations, failed ones included; an empty
            list ends the search.

        Raises:
            NASError: The evaluator cannot work at all.
            TrainingError: More than ``max_failures`` queries have failed. They are recorded, and the strategy is told.
        """
        asked = strategy.ask(min(count, self.left)) if self.left else []
        self.evaluator.begin(strategy.round)
        if asked and train is not None:
            train(asked)
        found = list(zip(asked, map(self._checked, evaluate_each(self.evaluator, asked)), strict=True))
        good = [(architecture, evaluation) for architecture, evaluation in found if evaluation.failure is None]
        if good and self.evaluator.version != self._version[0]:
            self._version = (self.evaluator.version, len(self.results))
            self._leader = None
        strategy.tell(good)
        first = self.queries + 1
        self.results += good
        self._winner = strategy.winner()
        failed = [FailedQuery(first + i, a, e.failure) for i, (a, e) in enumerate(found) if e.failure is not None]
        if failed:
            self._record(failed, strategy)
        return found

    def _checked(self, evaluation: Evaluation) -> Evaluation:
        """An evaluation, or a failed one if a number that the search needs is not finite."""
        needed = {**evaluation.cost, **evaluation.objectives}
        for name in (self.objective, *self.costs):
            if evaluation.failure is None and not math.isfinite(needed.get(name, 0.0)):
                return Evaluation.failed(f"{name} is {needed[name]}.")
        return evaluation

    def _record(self, failed: list[FailedQuery], strategy: Strategy) -> None:
        """Record queries that failed, and tell the strategy.

        Raises:
            TrainingError: Too many queries have failed.
        """
        self.failures += failed
        strategy.tell_failed([each.architecture for each in failed])
        for each in failed:
            _log.warning("Query %d failed: %s %s", each.query, each.reason, self.space.text(each.architecture))
        if len(self.failures) > self.max_failures:
            last = self.failures[-1]
            raise TrainingError(
                f"{len(self.failures)} of {self.queries} evaluations failed, more than max_failures = "
                f"{self.max_failures}; the last one: {last.reason} Its architecture is "
                f"{self.space.text(last.architecture):.300}. Fix the evaluator, or raise max_failures."
            )

    @property
    def best(self) -> Result:
        """What the strategy decides for, or the best result of the evaluator's current version, among equals the first.

        Raises:
            ConfigError: Nothing has been evaluated.
            TrainingError: All evaluations failed.
        """
        return self.results[self._best]

    @property
    def comparable(self) -> list[Result]:
        """The results of the evaluator's current version, in the order of the queries."""
        return self.results[self._version[1] :]

    @property
    def _best(self) -> int:
        if not self.results and self.failures:
            raise TrainingError(
                f"All {self.queries} evaluations failed, the last one: {self.failures[-1].reason} Fix the evaluator."
            )
        if not self.results:
            raise ConfigError(
                "Nothing was evaluated: the strategy had nothing to ask for, because it found no architecture in the "
                "space. Use a larger space or weaker constraints."
            )
        if self._winner is not None:
            key, place = self.space.key(self._winner), len(self.results) - 1
            while self.space.key(self.results[place][0]) != key:
                place -= 1
            return place
        sign, name = sign_of(self.objective), self.objective
        new = range(self._version[1] if self._leader is None else self._seen, len(self.results))
        # every result is looked at once: the first of equals stays
        places = new if self._leader is None else [self._leader, *new]
        self._leader, self._seen = max(places, key=lambda i: sign * self.results[i][1].objectives[name]), new.stop
        return self._leader

    def rows(self) -> list[dict[str, Any]]:
        """One row per query as JSON values: the text of the architecture, its objectives and its costs."""
        return [self._row(*result) for result in self.results]

    def _row(self, architecture: Architecture, evaluation: Evaluation) -> dict[str, Any]:
        return {
            "architecture": self.space.text(architecture),
            "choices": list(architecture.choices),
            "objectives": dict(evaluation.objectives),
            "cost": dict(evaluation.cost),
        }

    def write_progress(self, folder: Path, **provenance: Any) -> Path:
        """Write every query so far to ``history.json``, so that a search that is killed leaves them.

        Args:
            folder: The folder of the file.
            **provenance: Further JSON values about the search.

        Returns:
            The file.
        """
        found = self._summary(**provenance)
        if self.results:
            found |= self._row(*self.best)
        return write_json(folder / "history.json", {**found, "finished": False, **self._queries()})

    def _summary(self, **provenance: Any) -> dict[str, Any]:
        """Counts and settings of the search."""
        seconds = [evaluation.cost.get("seconds") for _, evaluation in self.results]
        known = [value for value in seconds if value is not None]
        return {
            **provenance,
            "evaluator": type(self.evaluator).__name__,
            "objective": self.objective,
            "queries": self.queries,
            "failed": len(self.failures),
            "evaluation_seconds": sum(known) if len(known) == len(seconds) else None,
        }

    def _queries(self) -> dict[str, Any]:
        """All queries, and those that failed."""
        failures = [
            {"query": each.query, "architecture": self.space.text(each.architecture), "reason": each.reason}
            for each in self.failures
        ]
        return {"history": self.rows(), "failures": failures}

    @property
    def _queries_to_best(self) -> int:
        """Number of the query that found the best architecture."""
        place = self._best + 1
        for each in self.failures:
            place += each.query <= place
        return place

    def write(self, folder: Path, final_evaluator: Evaluator | None = None, **provenance: Any) -> dict[str, list[Path]]:
        """Write the best architecture to ``architecture.json`` and every query to ``history.json``.

        Args:
            folder: The folder of the files.
            final_evaluator: Evaluates the best architecture once more, for example by test accuracy; its objectives
                are written as ``reported``, or the reason of its failure as ``report_failure``. None by default.
            **provenance: Further JSON values about the search.

        Returns:
            The files by kind of artifact.

        Raises:
            TrainingError: All evaluations failed.
        """
        best = self.best
        found = {**self._summary(**provenance), "queries_to_best": self._queries_to_best, **self._row(*best)}
        if final_evaluator is not None:
            (reported,) = evaluate_each(final_evaluator, [best[0]])
            found["reported"] = dict(reported.objectives)
            if reported.failure is not None:
                found["report_failure"] = reported.failure
                _log.warning("The final evaluation of the best architecture failed: %s", reported.failure)
        written = best[0].save(folder / "architecture.json", **found)
        history = write_json(folder / "history.json", {**found, "finished": True, **self._queries()})
        return {"architecture": [written], "history": [history]}

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs, as numbers and text."""
        return {
            "evaluator": self.evaluator.state_dict(),
            "version": list(self._version),
            "winner": None if self._winner is None else list(self._winner.choices),
            "results": [
                {"choices": list(a.choices), "objectives": dict(e.objectives), "cost": dict(e.cost)}
                for a, e in self.results
            ],
            "failures": [
                {"query": each.query, "choices": list(each.architecture.choices), "reason": each.reason}
                for each in self.failures
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: The state of a search in the same space.
        """
        self.evaluator.load_state_dict(state["evaluator"])
        self._version = tuple(state["version"])
        winner = state.get("winner")
        self._winner = None if winner is None else self.space.architecture(winner)
        self.results = [
            (self.space.architecture(row["choices"]), Evaluation(dict(row["objectives"]), dict(row["cost"])))
            for row in state["results"]
        ]
        self._look_again()
        self.failures = [
            FailedQuery(row["query"], self.space.architecture(row["choices"]), row["reason"])
            for row in state.get("failures", [])
        ]
