"""Architectures whose results are known."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import BudgetError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.tables.base import Table


class TableLookup(Evaluator):
    """Looks architectures up in a table of known results; nothing is trained.

    Every network counts as one query, however often it is looked up, and in whatever form. Where the table has several
    trials of a network, their mean is found, or with ``one_trial`` always the same one of them, drawn by the seed.

    Objective: ``accuracy``, as a fraction. Cost: what ``cost_columns`` names.

    Attributes:
        queried: Rows of the table that were looked up, in the order of their first queries.

    Args:
        table: The results.
        column: Which of its accuracies, in percent.
        objective: Must be ``test`` where the column is one of test accuracies: a search should not see these.
        cost_columns: Columns that say what an architecture costs; they are known without a query.
        budget: Queries that are allowed; any number if null.
        one_trial: Whether a result is that of one trial, as a search without a table would see.
        seed: Of the choice of trials.

    Raises:
        ConfigError: The column is of test accuracies, which ``objective`` does not say, or the budget is below 1.
    """

    def __init__(
        self,
        table: Table,
        column: str = "cifar10_val_200",
        objective: Literal["validation", "test"] = "validation",
        cost_columns: Sequence[str] = (),
        budget: int | None = None,
        one_trial: bool = False,
        seed: int = 0,
    ) -> None:
        if objective != "test" and "test" in column.split("_"):
            raise ConfigError(
                f"{column!r} are accuracies on test images, which a search must not see. Take a column of validation "
                "accuracies, or say objective: test where the table has no other."
            )
        if budget is not None and budget < 1:
            raise ConfigError(f"budget is {budget}; it must be at least 1 query, or null for any number.")
        self.table = table
        self.column = column
        self.cost_columns = tuple(cost_columns)
        self.budget = budget
        self.one_trial = one_trial
        self.seed = seed
        self.queried: dict[int, None] = {}

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """The columns of costs; see ``Evaluator.costs``, and ``Table.lookup`` for what may go wrong."""
        return {name: self.table.lookup(architecture, name) for name in self.cost_columns}

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Look up; see ``Table.lookup`` for what else may go wrong.

        Raises:
            BudgetError: The architectures not looked up before are more than the budget leaves; none is looked up.
        """
        rows = self.table.rows(architectures).tolist()
        found = self._look_up(architectures, rows)
        queried = {**self.queried, **dict.fromkeys(rows)}
        if self.budget is not None and len(queried) > self.budget:
            raise BudgetError(
                f"{len(queried) - len(self.queried)} architectures are new, but {self.budget - len(self.queried)} of "
                f"{self.budget} queries are left. Ask for fewer, or raise the budget."
            )
        self.queried = queried
        return [
            Evaluation({"accuracy": value / 100}, self.costs(architecture))
            for architecture, value in zip(architectures, found, strict=True)
        ]

    def _look_up(self, architectures: Sequence[Architecture], rows: list[int]) -> list[float]:
        """Percent.

        Raises:
            ConfigError: One trial is asked for where there are none.
        """
        if not self.one_trial:
            return [float(value) for value in self.table.lookup_many(architectures, self.column)]
        trials = range(self.table.trials(self.column))
        if not trials:
            raise ConfigError(f"{self.column!r} of {self.table.path} has no trials. Set one_trial to false.")
        drawn = []
        for row in rows:
            known = [trial for trial in trials if isfinite(self.table.column(self.column, trial)[row])] or trials
            drawn.append(known[derived_seed(self.seed, "trial", row) % len(known)])
        return [self.table.lookup(a, self.column, trial) for a, trial in zip(architectures, drawn, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """What was looked up."""
        return {"queried": list(self.queried)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Evaluator.load_state_dict``."""
        self.queried = dict.fromkeys(state["queried"])
