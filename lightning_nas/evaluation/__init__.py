"""Evaluators: what architectures score in a table, a short training, a supernet or by a prior."""

from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.costs import CostEvaluator
from lightning_nas.evaluation.parallel import Executor, Parallel, Processes, RayWorkers, Serial, Threads
from lightning_nas.evaluation.prior import AlphaPrior, PriorEvaluator
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.evaluation.zero_cost.synflow import SynFlow

__all__ = [
    "AlphaPrior",
    "CostEvaluator",
    "Evaluation",
    "Evaluator",
    "Executor",
    "Parallel",
    "PriorEvaluator",
    "Processes",
    "RayWorkers",
    "Serial",
    "ShortTraining",
    "SupernetEvaluator",
    "SynFlow",
    "TableLookup",
    "Threads",
]
