"""What an evaluator is."""

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
    """What is known of one architecture after looking at it.

    Attributes:
        objectives: What a search optimises, by name; for each, lower is better where the name ends in ``loss``.
        cost: What it took and what the architecture costs: seconds, parameters, ...
        features: Anything else that a strategy may look at.
    """

    objectives: dict[str, float]
    cost: dict[str, float] = field(default_factory=dict)
    features: Tensor | None = None


class Evaluator(CostSource):
    """Looks architectures up, or trains, or predicts them.

    Attributes:
        version: How often what it says of architectures has changed; evaluations of different versions do not compare.
        stochastic: Whether ``evaluate`` may draw from torch's global random generator.
    """

    version: int = 0
    stochastic: bool = True

    def prepare_data(self) -> None:  # noqa: B027
        """Download what is needed, in one process of every machine; by default nothing."""

    def to(self, device: torch.device) -> None:  # noqa: B027
        """Compute on a device from now on; by default nothing is computed."""

    def begin(self, round: int) -> None:  # noqa: B027
        """A round of a search begins; by default all rounds are alike.

        Args:
            round: Its number, from 0. An evaluator of several fidelities has another one, and another ``version``.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a search that goes on needs: tensors, numbers and text; by default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take the state back."""

    def close(self) -> None:  # noqa: B027
        """Let go of what outlives a call, such as processes; by default nothing does."""

    @abstractmethod
    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """One evaluation per architecture, in their order."""
