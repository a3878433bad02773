"""Architectures whose results are known."""

from collections.abc import Sequence

from lightning_nas.architecture import Architecture
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.tables.nasbench201 import NASBench201Table


class TableLookup(Evaluator):
    """Looks architectures up in a table of known results; nothing is trained.

    Objective: ``accuracy``, as a fraction.

    Args:
        table: The results.
        column: Which of its accuracies.
    """

    def __init__(self, table: NASBench201Table, column: str = "cifar10_test_200") -> None:
        self.table = table
        self.column = column

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Look up; see ``NASBench201Table.lookup`` for what may go wrong."""
        found = [self.table.lookup(architecture, self.column) for architecture in architectures]
        return [Evaluation({"accuracy": percent / 100}) for percent in found]
