"""Evaluations that fail: each costs one architecture."""

import sys
from collections.abc import Callable, Sequence

import pytest

from lightning_nas.architecture import Architecture
from lightning_nas.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    InterruptedTrainingError,
    NASError,
    TrainingError,
)
from lightning_nas.evaluation.base import LONGEST_REASON, Evaluation, Evaluator, evaluate_each, is_failure
from lightning_nas.evaluation.costs import CostEvaluator
from lightning_nas.evaluation.executors import Executor, Item, Result, Serial, Threads
from lightning_nas.evaluation.parallel import Parallel
from lightning_nas.evaluation.prior import PriorEvaluator
from lightning_nas.evaluation.wrapper import EvaluatorWrapper
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.spaces.nasbench201.space import NASBench201Space

SPACE = NASBench201Space()
CELLS = [SPACE.architecture([i, 3, 3, 1, 2, 0]) for i in range(5)]


class Failing(Evaluator):
    """Fails for the architectures whose first choice is 2.

    Args:
        error: What it raises.
        joint: Whether it wants all architectures at once.
    """

    stochastic = False

    def __init__(self, error: BaseException, joint: bool = False) -> None:
        self.error = error
        self.joint = joint
        self.calls: list[int] = []

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        self.calls.append(len(architectures))
        if any(a.choices[0] == 2 for a in architectures):
            raise self.error
        return [Evaluation({"loss": float(a.choices[0])}, {"parameters": 5.0}) for a in architectures]


class Pool(Executor):
    """An executor of the user's own, which knows nothing of failures."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        return [function(item) for item in items]


FAILURES = [RuntimeError("CUDA out of memory"), MemoryError("no"), SystemExit(3), TrainingError("the loss is nan")]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_an_error_costs_one_evaluation(error: BaseException) -> None:
    plain, joint = Failing(error), Failing(error, joint=True)
    for evaluator in (plain, joint, PriorEvaluator(Failing(error)), PriorEvaluator(Failing(error, joint=True))):
        found = evaluate_each(evaluator, CELLS)
        assert [each.objectives.get("loss") for each in found] == [0.0, 1.0, None, 3.0, 4.0]
        assert found[2].failure == f"{type(error).__name__}: {error}"
        assert [each.failure for each in found].count(None) == 4
    assert plain.calls == [1] * 5
    assert joint.calls == [5] + [1] * 5


@pytest.mark.parametrize("executor", [Serial(), Threads(2), Pool()], ids=lambda executor: type(executor).__name__)
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_an_error_in_a_worker_costs_one_evaluation(error: BaseException, executor: Executor) -> None:
    costs = CostEvaluator(Parallel(Failing(error), executor), NetworkCosts(channels=4, cells=1, image_shape=(3, 8, 8)))
    for evaluator in (Parallel(Failing(error), executor), costs, PriorEvaluator(costs)):
        found = evaluator.evaluate(CELLS)
        assert [each.objectives.get("loss") for each in found] == [0.0, 1.0, None, 3.0, 4.0]
        assert str(error) in str(found[2].failure)
        assert [each.failure for each in found].count(None) == 4
    executor.close()


@pytest.mark.parametrize("error", [ConfigError("no"), DataError("no"), ArtifactError("no")])
def test_what_cannot_work_ends_everything(error: NASError) -> None:
    for evaluator in (Failing(error), Failing(error, joint=True), Parallel(Failing(error), Threads(2))):
        with pytest.raises(type(error), match="no"):
            evaluate_each(evaluator, CELLS)


def test_requests_to_stop_are_no_failures() -> None:
    for error in (KeyboardInterrupt(), InterruptedTrainingError("stop")):
        assert not is_failure(error)
        with pytest.raises(type(error)):
            evaluate_each(Failing(error, joint=True), CELLS)


class Fewer(EvaluatorWrapper):
    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        return self.evaluator.evaluate(architectures)[1:]


class Exits(Evaluator):
    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        sys.exit("gone " * 500)


def test_answers_are_counted() -> None:
    for joint in (False, True):
        with pytest.raises(ConfigError, match=r"Fewer returned \d evaluations for \d architectures"):
            evaluate_each(Fewer(Failing(ValueError(), joint=joint)), CELLS[:2])
    assert evaluate_each(Fewer(Failing(ValueError())), []) == []


def test_reasons_are_short() -> None:
    (found,) = evaluate_each(Exits(), CELLS[:1])
    assert found.failure is not None
    assert found.failure.startswith("SystemExit: gone gone")
    assert len(found.failure) == LONGEST_REASON
    assert found.objectives == {}
