"""The base of evaluators that add something to another evaluator."""

from collections.abc import Mapping
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.evaluation.base import Evaluator


class EvaluatorWrapper(Evaluator):
    """Adds something to another evaluator and leaves everything else to it.

    A subclass implements ``evaluate``, and overrides only those other methods in which it differs.

    Attributes:
        evaluator: The wrapped evaluator.

    Args:
        evaluator: The wrapped evaluator.

    Example:
        ```python
        class ErrorRate(EvaluatorWrapper):
            def evaluate(self, architectures):
                found = self.evaluator.evaluate(architectures)
                return [each if each.failure else self.turned(each) for each in found]

            def turned(self, evaluation):
                return replace(evaluation, objectives={"error_loss": 1 - evaluation.objectives["accuracy"]})
        ```
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    @property
    def version(self) -> int:  # type: ignore[override]  # an attribute of other evaluators, read-only here
        """The version of the wrapped evaluator."""
        return self.evaluator.version

    @property
    def stochastic(self) -> bool:  # type: ignore[override]  # an attribute of other evaluators, read-only here
        """Whether the wrapped evaluator may use torch's global random generator."""
        return self.evaluator.stochastic

    @property
    def joint(self) -> bool:  # type: ignore[override]  # an attribute of other evaluators, read-only here
        """Whether the wrapped evaluator should be called for many architectures at once."""
        return self.evaluator.joint

    def prepare_data(self) -> None:
        """Download what the wrapped evaluator needs."""
        self.evaluator.prepare_data()

    def data_modules(self) -> list[Any]:
        """The data modules of the wrapped evaluator."""
        return self.evaluator.data_modules()

    def check(self) -> None:
        """Refuse data that the wrapped evaluator could not use."""
        self.evaluator.check()

    def to(self, device: torch.device) -> None:
        """Let the wrapped evaluator compute on this device from now on."""
        self.evaluator.to(device)

    def begin(self, round: int) -> None:
        """Begin a round in the wrapped evaluator."""
        self.evaluator.begin(round)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """The costs that the wrapped evaluator knows without a query."""
        return self.evaluator.costs(architecture)

    def state_dict(self) -> dict[str, Any]:
        """The state of the wrapped evaluator."""
        return self.evaluator.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the wrapped evaluator."""
        self.evaluator.load_state_dict(state)

    def close(self) -> None:
        """Close the wrapped evaluator."""
        self.evaluator.close()


def innermost(evaluator: Evaluator) -> Evaluator:
    """The evaluator inside all wrappers.

    Args:
        evaluator: Any evaluator; one that is not a wrapper is returned as it is.
    """
    while isinstance(evaluator, EvaluatorWrapper):
        evaluator = evaluator.evaluator
    return evaluator
