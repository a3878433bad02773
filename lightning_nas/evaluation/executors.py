"""Where evaluations run: in this process, in threads or processes of this machine, or on a Ray cluster."""

import importlib
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch

from lightning_nas.checks import at_least, greater_than
from lightning_nas.errors import ConfigError, MissingDependencyError, TrainingError
from lightning_nas.evaluation.process_pool import ProcessPool, unpicklable
from lightning_nas.evaluation.worker import Outcome, Worker, error_of

Item = TypeVar("Item")
Result = TypeVar("Result")

Run = Callable[[Sequence[Any]], Iterator[Outcome]]
"""Calls a function in workers."""


class Executor(ABC):
    """Calls a function for every item of a list, with one thread of torch per call.

    How torch splits a sum depends on its number of threads. With one thread everywhere, results are equal to the last
    bit, whatever the executor and however many workers it has.

    Attributes:
        shares_generator: Whether calls that run at the same time share torch's global random generator.

    Example:
        ```python
        class Pool(Executor):
            def map(self, function, items):
                with multiprocessing.Pool(4, torch.set_num_threads, (1,)) as pool:
                    return pool.map(function, items)
        ```
    """

    shares_generator: bool = False

    @abstractmethod
    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call the function once per item.

        If several calls fail, the error of the first item is raised.

        Args:
            function: The function; executors with workers pickle it.
            items: The arguments of the calls.

        Returns:
            The results, in the order of the items.
        """

    def attempt(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result | BaseException]:
        """Call the function once per item, so that a call that fails costs no other one.

        Args:
            function: The function; executors with workers pickle it.
            items: The arguments of the calls.

        Returns:
            The result of every call, or the error that it raised, in the order of the items.
        """
        return self.map(partial(_caught, function), items)

    def close(self) -> None:  # noqa: B027
        """End all workers; the next call starts new ones."""


class Serial(Executor):
    """Calls the function for one item after another in this process: the reference for all other executors.

    Example:
        ```yaml
        evaluator: {class_path: Parallel, init_args: {evaluator: ..., executor: Serial}}
        ```
    """

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call the function once per item; see ``Executor.map``."""
        with _one_thread():
            return [function(item) for item in items]


class Workers(Executor):
    """Workers that receive the function once, and then one item after another.

    They stay for later calls, with everything that the function has cached, as long as the function is the same. An
    error or an interruption ends them. An error arrives as it was raised, with a note that holds the worker's
    traceback.

    Args:
        workers: Number of workers, at least 1.

    Raises:
        ConfigError: ``workers`` is less than 1.
    """

    def __init__(self, workers: int = 2) -> None:
        at_least(1, workers=workers)
        self.workers = workers
        self._function: bytes | None = None
        self._run: Run | None = None

    @abstractmethod
    def start(self, function: bytes) -> Run:
        """Start the workers.

        Args:
            function: The pickled function.

        Returns:
            Calls the function in the workers; from items to their outcomes, in the order of the items.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the workers that ``start`` has started, without waiting for calls that have not begun."""

    @property
    def lost(self) -> type[BaseException]:
        """The error of a worker that ended without an answer."""
        return BrokenExecutor

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call the function in the workers; see ``Executor.map``.

        Raises:
            ConfigError: The function, an item or a result cannot be pickled.
            TrainingError: A worker ended without an answer.
        """
        try:
            return [_result(outcome) for outcome in self._outcomes(function, items)]
        except BaseException:
            self.close()
            raise

    def attempt(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result | BaseException]:
        """Call the function in the workers, which stay if a call fails; see ``Executor.attempt``.

        Raises:
            ConfigError: The function, an item or a result cannot be pickled, or no worker can start.
            TrainingError: A worker ended without an answer, in an executor that cannot tell which call it was.
        """
        try:
            return [error_of(outcome) or outcome[0] for outcome in self._outcomes(function, items)]
        except BaseException:
            self.close()
            raise

    def _outcomes(self, function: Any, items: Sequence[Any]) -> Iterator[Outcome]:
        # an error of the function itself is in its outcome
        try:
            pickled = pickle.dumps(function)
            if self._run is None or pickled != self._function:
                self.close()
                self._run, self._function = self.start(pickled), pickled
            yield from self._run(items)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ConfigError(unpicklable(error)) from None
        except self.lost:
            raise TrainingError(
                "A worker process ended without an answer: it was killed, perhaps for memory, or could not start. Use "
                'fewer workers; a script of your own must start its work under if __name__ == "__main__".'
            ) from None

    def close(self) -> None:
        """End all workers; see ``Executor.close``."""
        if self._run is not None:
            self._run = None
            self.stop()


class Threads(Workers):
    """Threads of this process, each with its own copy of the function.

    They start at once, but only the computations of torch run at the same time. As threads share torch's global random
    generator, they suit evaluators that draw no random numbers, such as ``SupernetEvaluator``.

    Args:
        workers: Number of threads, at least 1.

    Raises:
        ConfigError: ``workers`` is less than 1.

    Example:
        ```yaml
        executor: {class_path: Threads, init_args: {workers: 4}}
        ```
    """

    shares_generator = True

    def start(self, function: bytes) -> Run:
        """Start the threads; see ``Workers.start``."""
        self._pool = ThreadPoolExecutor(self.workers, initializer=_hold, initargs=(function,))
        return partial(self._pool.map, _call)

    def stop(self) -> None:
        """End the threads; see ``Workers.stop``."""
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call the function in the threads; see ``Workers.map``."""
        # a thread begins with the number of threads that was set last in any thread
        with _one_thread():
            return super().map(function, items)

    def attempt(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result | BaseException]:
        """Call the function in the threads; see ``Workers.attempt``."""
        with _one_thread():
            return super().attempt(function, items)


class Processes(Workers):
    """Processes of this machine.

    They are spawned, not forked, so that they can use a GPU, and they end when this process ends, however that happens.
    A process that dies or exceeds the timeout costs the call that it was working on, and is replaced.

    Args:
        workers: Number of processes, at least 1.
        timeout: Seconds that a call may take, greater than 0; a process that takes longer is killed. Null for any time.

    Raises:
        ConfigError: ``workers`` is less than 1, or ``timeout`` is not greater than 0.

    Example:
        ```yaml
        executor: {class_path: Processes, init_args: {workers: 4, timeout: 600}}
        ```
    """

    def __init__(self, workers: int = 2, timeout: float | None = None) -> None:
        super().__init__(workers)
        greater_than(0, timeout=timeout)
        self.timeout = timeout

    def start(self, function: bytes) -> Run:
        """Start the processes; see ``Workers.start``."""
        self._pool = ProcessPool(self.workers, function, self.timeout)
        return self._pool.run

    def stop(self) -> None:
        """End the processes, busy ones at once; see ``Workers.stop``."""
        self._pool.kill()


class RayWorkers(Workers):
    """Actors of Ray, on the cluster that this process is connected to, or else on this machine.

    Needs ``pip install "lightning_nas[ray]"``. The machines of the cluster need this library and every file that the
    function reads.

    Args:
        workers: Number of actors, at least 1.
        gpus: GPUs per actor, at least 0; a fraction, such as 0.25, lets several actors share a GPU.

    Raises:
        ConfigError: ``workers`` is less than 1, or ``gpus`` is negative.

    Example:
        ```yaml
        executor: {class_path: RayWorkers, init_args: {workers: 16, gpus: 0.25}}
        ```
    """

    def __init__(self, workers: int = 2, gpus: float = 0.0) -> None:
        super().__init__(workers)
        at_least(0, gpus=gpus)
        self.gpus = gpus

    def start(self, function: bytes) -> Run:
        """Start the actors; see ``Workers.start``.

        Raises:
            ConfigError: Ray has too few CPUs or GPUs.
            MissingDependencyError: Ray is not installed.
        """
        ray = _ray()
        if not ray.is_initialized():
            ray.init()
        available = ray.cluster_resources()
        cpus, gpus = available.get("CPU", 0), available.get("GPU", 0)
        # Ray waits without end for an actor that it has no room for
        if self.workers > cpus or self.workers * self.gpus > gpus:
            raise ConfigError(
                f"{self.workers} workers need 1 CPU and {self.gpus:g} GPUs each; Ray has {cpus:g} CPUs and {gpus:g} "
                "GPUs. Use fewer workers, or connect to a larger cluster with ray.init first."
            )
        held = ray.put(function)
        actor = ray.remote(num_cpus=1, num_gpus=self.gpus)(Worker)
        self._actors = [actor.remote(held) for _ in range(self.workers)]
        pool = importlib.import_module("ray.util").ActorPool(self._actors)
        return partial(pool.map, lambda actor, item: actor.call.remote(item))

    def stop(self) -> None:
        """End the actors; see ``Workers.stop``."""
        for actor in self._actors:
            _ray().kill(actor)

    @property
    def lost(self) -> type[BaseException]:
        """The error of an actor that ended without an answer."""
        found: type[BaseException] = _ray().exceptions.RayActorError
        return found


_local = threading.local()
"""Has the ``worker`` of this thread."""


def _hold(function: bytes) -> None:
    _local.worker = Worker(function)


def _call(item: Any) -> Outcome:
    outcome: Outcome = _local.worker.call(item)
    return outcome


def _caught(function: Callable[[Item], Result], item: Item) -> Result | BaseException:
    """The result of a call, or its error."""
    try:
        return function(item)
    except (Exception, SystemExit) as error:
        return error


def _result(outcome: Outcome) -> Any:
    error = error_of(outcome)
    if error is not None:
        raise error
    return outcome[0]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise MissingDependencyError("ray", "RayWorkers", "ray") from None
