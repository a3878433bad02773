"""Evaluations that run at the same time."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator, is_failure
from lightning_nas.evaluation.executors import Executor
from lightning_nas.evaluation.wrapper import EvaluatorWrapper


class Parallel(EvaluatorWrapper):
    """Runs the evaluations of another evaluator in an executor.

    The evaluations are the same whatever the executor and however many workers it has: the random numbers of an
    evaluation depend only on its architecture. Only ``seconds`` differ, as they are measured where an evaluation runs.

    An error costs the evaluation of one architecture, which has a ``failure``; so does a worker that is lost. With the
    executor ``Processes``, an evaluation can have a timeout.

    ``ShortTraining`` gains most. An evaluator whose state changes while it evaluates, such as ``TableLookup`` with its
    count of queries, is refused, because the change would be lost in the worker. For the same reason ``CostEvaluator``
    goes around this one, not inside.

    Args:
        evaluator: The evaluator that runs in the executor.
        executor: Where it runs.

    Raises:
        ConfigError: The evaluator draws random numbers, and concurrent calls of the executor share one generator.

    Example:
        ```yaml
        evaluator:
          class_path: Parallel
          init_args:
            evaluator: {class_path: ShortTraining, init_args: {data: ...}}
            executor: {class_path: Processes, init_args: {workers: 4}}
        ```
    """

    def __init__(self, evaluator: Evaluator, executor: Executor) -> None:
        if evaluator.stochastic and executor.shares_generator:
            raise ConfigError(
                f"{type(evaluator).__name__} may draw random numbers, and the calls of {type(executor).__name__} share "
                "one generator, so that results would differ from run to run. Use the executor Processes."
            )
        super().__init__(evaluator)
        self.executor = executor
        self._round: int | None = None

    @property
    def joint(self) -> bool:  # type: ignore[override]  # an attribute of other evaluators, read-only here
        """Whether it should be called for many architectures at once: always."""
        return True

    def begin(self, round: int) -> None:
        """Begin a round in the wrapped evaluator."""
        self._round = round
        super().begin(round)

    def close(self) -> None:
        """End the workers, which the next evaluation starts again, and close the wrapped evaluator."""
        self.executor.close()
        super().close()

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Evaluate in the executor; see ``Evaluator.evaluate`` and ``Executor.attempt``.

        Raises:
            ConfigError: The state of the wrapped evaluator has changed.
            NASError: The evaluator cannot work at all, see ``is_failure``.
        """
        items = [(self._round, architecture) for architecture in architectures]
        if self._round is not None:
            super().begin(0)  # what is sent to the workers is the same in every round, so that they stay
        try:
            found = self.executor.attempt(partial(_evaluate, self.evaluator), items)
        finally:
            if self._round is not None:
                super().begin(self._round)
        for each in found:
            if isinstance(each, BaseException) and not is_failure(each):
                raise each
        return [Evaluation.failed(each) if isinstance(each, BaseException) else each for each in found]


def _evaluate(evaluator: Evaluator, item: tuple[int | None, Architecture]) -> Evaluation:
    """Evaluate one architecture, in a round if there are any."""
    round, architecture = item
    if round is not None:
        evaluator.begin(round)
    before = copy.deepcopy((evaluator.version, evaluator.state_dict()))
    if evaluator.stochastic:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
            torch.manual_seed(derived_seed("evaluation", *architecture.choices))
            (found,) = evaluator.evaluate([architecture])
    else:
        (found,) = evaluator.evaluate([architecture])
    if not _equal(before, (evaluator.version, evaluator.state_dict())):
        raise ConfigError(
            f"The state of {type(evaluator).__name__} changes as it evaluates; in a worker the change would be lost. "
            "Use it without Parallel, or, if it wraps another evaluator, put Parallel inside it."
        )
    return found


def _equal(first: Any, second: Any) -> bool:
    """Whether two states are equal, tensors included."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return list(first) == list(second) and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)
