"""Evaluations spread over threads, processes or machines."""

import copy
import importlib
import os
import pickle
import signal
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, MissingDependencyError, TrainingError
from lightning_nas.evaluation.base import Evaluation, Evaluator

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(ABC):
    """Calls a function for every item, somewhere, with one thread of torch a call.

    What sums run over depends on the number of threads, so that with the same number results are the same everywhere.

    Attributes:
        shares_generator: Whether calls that run at the same time draw from one random generator, that of the process.
    """

    shares_generator: bool = False

    @abstractmethod
    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The results, in the order of the items; of several errors, that of the first item is raised.

        Args:
            function: Where it is called elsewhere, it must be picklable, as must the items and the results.
            items: Its arguments.
        """

    def close(self) -> None:  # noqa: B027
        """Let go of all processes; another call of ``map`` starts new ones."""


class Serial(Executor):
    """One after another in this process: what the others give, without them."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """See ``Executor.map``."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [function(item) for item in items]
        finally:
            torch.set_num_threads(threads)


class Workers(Executor):
    """Processes or threads that get the function once, and items one by one.

    They stay for the next call, with what they have cached, as long as the function is the same; an exception, or an
    interruption, ends them. An exception arrives as it was raised, with a note that holds the worker's traceback.

    Args:
        workers: How many, at least 1.

    Raises:
        ConfigError: ``workers`` is below 1.
    """

    def __init__(self, workers: int = 2) -> None:
        if workers < 1:
            raise ConfigError(f"workers is {workers}; it must be at least 1.")
        self.workers = workers
        self._content: bytes | None = None

    @abstractmethod
    def start(self, content: bytes) -> None:
        """Start the workers.

        Args:
            content: The pickled function.
        """

    @abstractmethod
    def answers(self, items: Sequence[bytes]) -> Iterator[bytes]:
        """What ``answer`` says of every pickled item, in their order.

        Raises:
            TrainingError: A worker is gone.
        """

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """See ``Executor.map``.

        Raises:
            ConfigError: The function or an item cannot be pickled.
            TrainingError: A worker is gone.
        """
        try:
            content, pickled = pickle.dumps(function), [pickle.dumps(item) for item in items]
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{function}, or what it is to be called for, cannot be sent to another process: {error}. Use "
                f"{__name__}.Serial, or leave out what cannot be pickled, such as functions without a name and open "
                "files."
            ) from None
        try:
            if content != self._content:
                self.close()
                self.start(content)
                self._content = content
            return [_result(each) for each in self.answers(pickled)]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See ``Executor.close``."""
        self._content = None


_held = threading.local()
"""What this worker, a process or a thread, was given."""


def answer(content: bytes, item: bytes) -> bytes:
    """Call the function in a worker.

    Args:
        content: The pickled function; it is read once.
        item: Its pickled argument.

    Returns:
        The pickled result, or what makes the exception again: one that pickles by its arguments may not take them.
    """
    try:
        if getattr(_held, "content", None) is not content:
            torch.set_num_threads(1)
            _held.function, _held.content = pickle.loads(content), content
        return pickle.dumps((_held.function(pickle.loads(item)), None))
    except Exception as error:
        error.add_note(f"In a worker:\n{traceback.format_exc()}")
        return pickle.dumps((None, (type(error), error.args, vars(error))))


def _result(answered: bytes) -> Any:
    result, failure = pickle.loads(answered)
    if failure is None:
        return result
    kind, arguments, attributes = failure
    error = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    raise error


_GONE = (
    "A worker process ended without an answer: it was killed, perhaps for memory, or could not start. Use fewer "
    'workers; a script of your own must start under if __name__ == "__main__".'
)


class Processes(Workers):
    """Processes of this machine, started afresh, so that they also go with a GPU.

    They end when this process does, however it ends.

    Args:
        workers: How many, at least 1.

    Raises:
        ConfigError: ``workers`` is below 1.
    """

    def __init__(self, workers: int = 2) -> None:
        super().__init__(workers)
        self._pool: Any = None
        self._life: Connection | None = None

    def start(self, content: bytes) -> None:
        """See ``Workers.start``."""
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        context = get_context("spawn")
        # the end that only this process has: its closing, by whatever means, is what a worker ends by
        lives, self._life = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(self.workers, context, _begin, (content, lives))

    def answers(self, items: Sequence[bytes]) -> Iterator[bytes]:
        """See ``Workers.answers``."""
        from concurrent.futures.process import BrokenProcessPool

        try:
            yield from self._pool.map(_answer_with_content, items)
        except BrokenProcessPool:
            raise TrainingError(_GONE) from None

    def close(self) -> None:
        """See ``Executor.close``."""
        super().close()
        if self._life is not None:
            self._life.close()
            self._pool.shutdown(cancel_futures=True)
            self._life = self._pool = None


def _begin(content: bytes, lives: Connection) -> None:
    """Start a worker of ``Processes``."""
    # Ctrl-C reaches all processes of a terminal; this one ends with its parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lives,), daemon=True).start()
    _held.given = content


def _end_with(lives: Connection) -> None:
    with suppress(EOFError, OSError):
        lives.recv_bytes()
    os._exit(1)


def _answer_with_content(item: bytes) -> bytes:
    return answer(_held.given, item)


class Threads(Workers):
    """Threads of this process, each with a copy of the function of its own.

    For evaluators that draw nothing at random, such as ``SupernetEvaluator``: threads share the generator. They start
    at once, but only what torch computes runs at the same time.

    Args:
        workers: How many, at least 1.

    Raises:
        ConfigError: ``workers`` is below 1.
    """

    shares_generator = True

    def __init__(self, workers: int = 2) -> None:
        super().__init__(workers)
        self._pool: Any = None
        self._given = b""

    def start(self, content: bytes) -> None:
        """See ``Workers.start``."""
        from concurrent.futures import ThreadPoolExecutor

        self._pool, self._given = ThreadPoolExecutor(self.workers), content

    def answers(self, items: Sequence[bytes]) -> Iterator[bytes]:
        """See ``Workers.answers``."""
        yield from self._pool.map(partial(answer, self._given), items)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """See ``Workers.map``."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # new threads take over what was set last in any
        try:
            return super().map(function, items)
        finally:
            torch.set_num_threads(threads)

    def close(self) -> None:
        """See ``Executor.close``."""
        super().close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


class RayWorkers(Workers):
    """Actors of Ray: on the cluster that this process is connected to, else on this machine.

    Needs ``pip install "lightning_nas[ray]"``. The cluster's machines need this library, and every file that the
    function reads.

    Args:
        workers: How many, at least 1.
        gpus: GPUs of each; a share, such as 0.25, where several are to use one.

    Raises:
        ConfigError: ``workers`` is below 1, or ``gpus`` below 0.
    """

    def __init__(self, workers: int = 2, gpus: float = 0.0) -> None:
        super().__init__(workers)
        if gpus < 0:
            raise ConfigError(f"gpus is {gpus}; it must be at least 0.")
        self.gpus = gpus
        self._actors: list[Any] = []

    def start(self, content: bytes) -> None:
        """See ``Workers.start``.

        Raises:
            ConfigError: Ray has no room for them.
            MissingDependencyError: Ray is not installed.
        """
        ray = _ray()
        if not ray.is_initialized():
            ray.init()
        there = ray.cluster_resources()
        # an actor that there is no room for is waited for without end
        if self.workers > there.get("CPU", 0) or self.workers * self.gpus > there.get("GPU", 0):
            raise ConfigError(
                f"{self.workers} workers need a CPU and {self.gpus:g} GPUs each; Ray has {there.get('CPU', 0):g} CPUs "
                f"and {there.get('GPU', 0):g} GPUs. Use fewer workers, or call ray.init for a larger cluster first."
            )
        held = ray.put(content)
        made = ray.remote(num_cpus=1, num_gpus=self.gpus)(_Actor)
        self._actors = [made.remote(held) for _ in range(self.workers)]

    def answers(self, items: Sequence[bytes]) -> Iterator[bytes]:
        """See ``Workers.answers``."""
        ray = _ray()
        pool = importlib.import_module("ray.util").ActorPool(self._actors)
        try:
            yield from pool.map(lambda actor, item: actor.answer.remote(item), items)
        except ray.exceptions.RayActorError:
            raise TrainingError(_GONE) from None

    def close(self) -> None:
        """See ``Executor.close``."""
        super().close()
        for actor in self._actors:
            _ray().kill(actor)
        self._actors = []


class _Actor:
    """A worker of Ray."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def answer(self, item: bytes) -> bytes:
        return answer(self.content, item)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise MissingDependencyError("ray", "RayWorkers", "ray") from None


class Parallel(Evaluator):
    """Spreads the evaluations of another evaluator; they are the same whatever the executor, in the same order.

    Of the evaluators here, ``ShortTraining`` gains most. One whose state changes as it evaluates, such as the count of
    queries of ``TableLookup``, is refused: the change would be lost. For that reason ``CostEvaluator`` goes around this
    one, not inside. Seconds are measured where an evaluation runs, and so differ.

    Attributes:
        evaluator: The other one.

    Args:
        evaluator: What evaluates.
        executor: Where.

    Raises:
        ConfigError: Evaluations draw at random, and the executor's calls share one generator.
    """

    def __init__(self, evaluator: Evaluator, executor: Executor) -> None:
        if evaluator.stochastic and executor.shares_generator:
            raise ConfigError(
                f"{type(evaluator).__name__} may draw at random, and {type(executor).__name__} share one generator, so "
                f"that results would differ from run to run. Use {__name__}.Processes."
            )
        self.evaluator = evaluator
        self.executor = executor
        self._round: int | None = None

    @property
    def version(self) -> int:  # type: ignore[override]  # it is the other one's
        """That of the other evaluator."""
        return self.evaluator.version

    def begin(self, round: int) -> None:
        """That of the other evaluator."""
        self._round = round
        self.evaluator.begin(round)

    def prepare_data(self) -> None:
        """That of the other evaluator, in this process alone."""
        self.evaluator.prepare_data()

    def close(self) -> None:
        """Let the workers go; another evaluation starts new ones."""
        self.executor.close()
        self.evaluator.close()

    def to(self, device: torch.device) -> None:
        """Where the other evaluator computes."""
        self.evaluator.to(device)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Those of the other evaluator, in this process."""
        return self.evaluator.costs(architecture)

    def state_dict(self) -> dict[str, Any]:
        """That of the other evaluator."""
        return self.evaluator.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Evaluator.load_state_dict``."""
        self.evaluator.load_state_dict(state)

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Spread the evaluations; see ``Executor.map``.

        Raises:
            ConfigError: The other evaluator's state has changed.
        """
        items = [(self._round, architecture) for architecture in architectures]
        if self._round is not None:
            self.evaluator.begin(0)  # what is sent is the same in every round, so that workers stay
        try:
            return self.executor.map(partial(_evaluate, self.evaluator), items)
        finally:
            if self._round is not None:
                self.evaluator.begin(self._round)


def _evaluate(evaluator: Evaluator, item: tuple[int | None, Architecture]) -> Evaluation:
    """Evaluate one, in a round where there are some, with draws that depend on nothing but it."""
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
    if not _same(before, (evaluator.version, evaluator.state_dict())):
        raise ConfigError(
            f"The state of {type(evaluator).__name__} changes as it evaluates; in a worker the change would be lost. "
            "Use it without Parallel, or, if it wraps another evaluator, put Parallel inside it."
        )
    return found


def _same(first: Any, second: Any) -> bool:
    """Whether two states are equal."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return list(first) == list(second) and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)
