"""The contract of evaluators: what a search asks about architectures."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError, NASError, TrainingError
from lightning_nas.metrics.cost import CostSource
from lightning_nas.metrics.evaluation import LONGEST_REASON as LONGEST_REASON
from lightning_nas.metrics.evaluation import Evaluation as Evaluation
from lightning_nas.metrics.evaluation import sign_of as sign_of
from lightning_nas.terminal import Progress


class Evaluator(CostSource):
    """Measures or predicts the performance of architectures.

    Evaluators look results up in a table, train networks, score paths of a supernet, or compute a zero-cost score. A
    search calls ``begin`` once per round and ``evaluate`` once per generation.

    Attributes:
        version: Counts how often the meaning of the evaluations has changed, for example because a supernet was
            trained in between. Evaluations of different versions are not comparable.
        stochastic: Whether ``evaluate`` may use torch's global random generator.
        joint: Whether ``evaluate`` should be called for many architectures at once, because that is faster or because
            their evaluations depend on each other, as ranks do. Otherwise a search calls it for one architecture at a
            time, so that an error costs the evaluation of one.

    Example:
        ```python
        class CountConvolutions(Evaluator):
            def evaluate(self, architectures):
                return [Evaluation({"accuracy": a.choices.count(3) / len(a.choices)}) for a in architectures]
        ```
    """

    version: int = 0
    stochastic: bool = True
    joint: bool = False

    def prepare_data(self) -> None:  # noqa: B027
        """Download what is needed. Called in one process per machine; does nothing by default."""

    def data_modules(self) -> list[Any]:
        """The data modules whose images the evaluator reads; none by default."""
        return []

    def check(self) -> None:  # noqa: B027
        """Refuse data that evaluations could not use, before anything runs; accepts all by default.

        Images are listed, not read, where that is possible.

        Raises:
            DataError: Images are missing, or too few.
        """

    def to(self, device: torch.device) -> None:  # noqa: B027
        """Compute on this device from now on; does nothing by default.

        Args:
            device: The device of the search.
        """

    def begin(self, round: int) -> None:  # noqa: B027
        """Begin a round of a search; does nothing by default.

        An evaluator of several fidelities, such as ``ShortTraining``, changes its fidelity and its ``version`` here.

        Args:
            round: Number of the round, from 0.
        """

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs, as tensors, numbers and text; empty by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what ``state_dict`` returned.

        Args:
            state: The state of an evaluator with the same arguments.
        """

    def close(self) -> None:  # noqa: B027
        """Release what outlives a call, such as worker processes; does nothing by default."""

    @abstractmethod
    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Evaluate architectures.

        Args:
            architectures: The architectures; the same one may occur several times.

        Returns:
            One evaluation per architecture, in the order of the architectures. Where one fails, the evaluator raises
            an error, or returns an evaluation with a ``failure``; see ``evaluate_each``.
        """


def is_failure(error: BaseException) -> bool:
    """Whether an error is the failure of one evaluation, after which a search goes on.

    Errors of this library about data, files and the configuration are not: they would return at every evaluation. Nor
    are requests to stop, such as Ctrl-C.

    Args:
        error: An error that an evaluator has raised.
    """
    if isinstance(error, NASError):
        return isinstance(error, TrainingError)
    return isinstance(error, (Exception, SystemExit))


def evaluate_each(evaluator: Evaluator, architectures: Sequence[Architecture]) -> list[Evaluation]:
    """Evaluate architectures so that an error costs the evaluation of one architecture.

    If an evaluator of many architectures at once fails, each of them is evaluated again by itself.

    Args:
        evaluator: The evaluator.
        architectures: The architectures.

    Returns:
        One evaluation per architecture, in the order of the architectures; those that failed have a ``failure``.

    Raises:
        NASError: The evaluator cannot work at all, see ``is_failure``.
    """
    if evaluator.joint and len(architectures) > 1:
        try:
            return _evaluate(evaluator, architectures)
        except BaseException as error:
            if not is_failure(error):
                raise
    found = []
    progress = Progress("architectures evaluated", len(architectures))
    for architecture in architectures:
        try:
            found += _evaluate(evaluator, [architecture])
        except BaseException as error:
            if not is_failure(error):
                raise
            found.append(Evaluation.failed(error))
        progress.step()
    return found


def _evaluate(evaluator: Evaluator, architectures: Sequence[Architecture]) -> list[Evaluation]:
    """Call the evaluator and count its answers.

    Raises:
        ConfigError: There are fewer or more answers than architectures.
    """
    found = evaluator.evaluate(architectures)
    if len(found) != len(architectures):
        raise ConfigError(
            f"{type(evaluator).__name__} returned {len(found)} evaluations for {len(architectures)} architectures. Let "
            "its evaluate return one per architecture, in their order."
        )
    return found
