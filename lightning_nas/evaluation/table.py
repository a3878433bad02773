"""Results of architectures from a table."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import BudgetError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.tables.base import Table


class TableLookup(Evaluator):
    """Looks architectures up in a table of known results; nothing is trained.

    A network counts as one query, however often and in whatever isomorphic form it is looked up. Where the table has
    several trials of a network, the result is their mean, or with ``one_trial`` one of them: always the same one, drawn
    by the seed.

    Objective: ``accuracy``, a fraction. Costs: the columns that ``cost_columns`` names.

    Attributes:
        queried: The rows of the table that were looked up, in the order of their first queries.

    Args:
        table: The table.
        column: Its column of accuracies, in percent.
        objective: Set it to ``test`` to allow a column of test accuracies, which a search should not see. The only
            good reason is a table without validation accuracies.
        cost_columns: Columns with the costs of architectures; looking these up is not a query.
        budget: Number of queries allowed, at least 1; null allows any number.
        one_trial: Whether to look up a single trial, as noisy as a training that a search would run without a table.
        seed: Seed of the choice of trials.

    Raises:
        ConfigError: The column is one of test accuracies and ``objective`` is not ``test``, or ``budget`` is less than
            1.

    Example:
        ```yaml
        evaluator:
          class_path: TableLookup
          init_args:
            table: {class_path: NASBench201Table, init_args: {path: nasbench201.npz}}
            column: cifar10_val_200
            cost_columns: [cifar10_params]
        ```
    """

    stochastic = False
    joint = True

    def __init__(
        self,
        table: Table,
        *,
        column: str = "cifar10_val_200",
        objective: Literal["validation", "test"] = "validation",
        cost_columns: Sequence[str] = (),
        budget: int | None = None,
        one_trial: bool = False,
        seed: int = 0,
    ) -> None:
        if objective != "test" and "test" in column.split("_"):
            raise ConfigError(
                f"{column!r} are accuracies on test images, which a search must not see. Use a column of validation "
                "accuracies, or set objective to test if the table has no others."
            )
        at_least(1, budget=budget)
        self.table = table
        self.column = column
        self.cost_columns = tuple(cost_columns)
        self.budget = budget
        self.one_trial = one_trial
        self.seed = seed
        self.queried: dict[int, None] = {}

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """The columns of ``cost_columns``; see ``Table.lookup`` for its errors."""
        return {name: self.table.lookup(architecture, name) for name in self.cost_columns}

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Look architectures up; see ``Evaluator.evaluate``, and ``Table.lookup`` for its errors.

        Raises:
            BudgetError: More architectures are new than queries are left. None of them is looked up.
            ConfigError: ``one_trial`` is set, and the column has no trials.
        """
        rows = self.table.rows(architectures).tolist()
        found = self._look_up(architectures, rows)
        queried = {**self.queried, **dict.fromkeys(rows)}
        if self.budget is not None and len(queried) > self.budget:
            raise BudgetError(
                f"{len(queried) - len(self.queried)} architectures are new, but only "
                f"{self.budget - len(self.queried)} of {self.budget} queries are left. Ask for fewer, or raise budget."
            )
        self.queried = queried
        return [
            Evaluation({"accuracy": value / 100}, self.costs(architecture))
            for architecture, value in zip(architectures, found, strict=True)
        ]

    def _look_up(self, architectures: Sequence[Architecture], rows: list[int]) -> list[float]:
        """Accuracies in percent."""
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
        """The rows that were looked up."""
        return {"queried": list(self.queried)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the rows that were looked up."""
        self.queried = dict.fromkeys(state["queried"])
