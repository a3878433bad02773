"""Evaluators: performance and costs of architectures, from tables, trainings, supernets or zero-cost scores."""

from lightning_nas.evaluation.base import Evaluation, Evaluator, evaluate_each
from lightning_nas.evaluation.costs import CostEvaluator
from lightning_nas.evaluation.executors import Executor, Processes, RayWorkers, Serial, Threads
from lightning_nas.evaluation.parallel import Parallel
from lightning_nas.evaluation.prior import AlphaPrior, PriorEvaluator
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.evaluation.wrapper import EvaluatorWrapper, innermost
from lightning_nas.evaluation.zero_cost import ZeroCost, ZeroCostScore

__all__ = [
    "AlphaPrior",
    "CostEvaluator",
    "Evaluation",
    "Evaluator",
    "EvaluatorWrapper",
    "Executor",
    "Parallel",
    "PriorEvaluator",
    "Processes",
    "RayWorkers",
    "Serial",
    "ShortTraining",
    "SupernetEvaluator",
    "TableLookup",
    "Threads",
    "ZeroCost",
    "ZeroCostScore",
    "evaluate_each",
    "innermost",
]
