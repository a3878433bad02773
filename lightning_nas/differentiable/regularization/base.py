"""What a regularizer is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.spaces.base import Mixture


@dataclass(frozen=True)
class WeightStep:
    """One step of the weights, as a regularizer may look at it.

    Attributes:
        images: The batch, normalised and augmented.
        logits: What the supernet says of it.
        virtual: ``(images, state, mixtures) -> logits`` of the supernet with other parameters and buffers, which moves
            the batch-norm statistics among them.
    """

    images: Tensor
    logits: Tensor
    virtual: Callable[[Tensor, Mapping[str, Tensor], Mapping[str, Mixture]], Tensor]

    def evaluate(self, state: Mapping[str, Tensor], mixtures: Mapping[str, Mixture]) -> Tensor:
        """Logits of the batch by the supernet with other parameters and buffers; no gradients, nothing is moved."""
        with torch.no_grad():
            return self.virtual(self.images, {name: value.clone() for name, value in state.items()}, mixtures)


class Regularizer(ABC):
    """A term of the loss that the alphas minimise, or of that of the weights, or of both."""

    def attach(self, task: Any) -> None:
        """Look at the search that is to use this, when it is built or gets another supernet; by default nothing.

        Args:
            task: A ``BilevelTask``.

        Raises:
            ConfigError: The two don't go together.
        """
        return

    @abstractmethod
    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term of the alphas' loss, a scalar.

        Args:
            alphas: ``(edges, operations)`` a cell type; ``-inf`` where the space does not allow an operation.
            progress: The share of the search's epochs that is over, from 0 to 1.
        """

    def weight_penalty(self, step: WeightStep) -> Tensor | None:
        """The term of the weights' loss, a scalar; by default None: there is none."""
        return None

    def after_epoch(self, supernet: nn.Module, mixtures: Mapping[str, Mixture]) -> None:
        """Look at the supernet and its factors at the end of an epoch of training; by default nothing."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What a run goes on from, as numbers, text and tensors; by default nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        return
