"""The contract of evaluators: what a search asks about architectures."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.metrics.cost import CostSource


@dataclass(frozen=True)
class Evaluation:
    """The measurements of one architecture.

    Attributes:
        objectives: Values that a search optimises, by name. Lower is better where the name ends in ``loss``, higher is
            better everywhere else.
        cost: Costs by name, lower is better: what the evaluation took (``seconds``) and what the network needs
            (``parameters``, ``latency_ms``, ...).
        features: Numbers that describe the architecture, for strategies that compare architectures by them, such as
            ``DCNAS``; None where the evaluator has none.

    Example:
        ```python
        Evaluation({"accuracy": 0.93}, {"seconds": 12.0, "parameters": 3.3e6})
        ```
    """

    objectives: dict[str, float]
    cost: dict[str, float] = field(default_factory=dict)
    features: Tensor | None = None


class Evaluator(CostSource):
    """Measures or predicts the performance of architectures.

    Evaluators look results up in a table, train networks, score paths of a supernet, or compute a zero-cost score. A
    search calls ``begin`` once per round and ``evaluate`` once per generation.

    Attributes:
        version: Counts how often the meaning of the evaluations has changed, for example because a supernet was
            trained in between. Evaluations of different versions are not comparable.
        stochastic: Whether ``evaluate`` may use torch's global random generator.

    Example:
        ```python
        class CountConvolutions(Evaluator):
            def evaluate(self, architectures):
                return [Evaluation({"accuracy": a.choices.count(3) / len(a.choices)}) for a in architectures]
        ```
    """

    version: int = 0
    stochastic: bool = True

    def prepare_data(self) -> None:  # noqa: B027
        """Download what is needed. Called in one process per machine; does nothing by default."""

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
            One evaluation per architecture, in the order of the architectures.
        """
