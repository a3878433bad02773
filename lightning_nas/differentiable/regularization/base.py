"""The interface of regularizers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_nas.differentiable.model import SearchModel
from lightning_nas.spaces.supernet import Mixture


@dataclass(frozen=True)
class WeightStep:
    """One step of the weights, as a regularizer sees it.

    Attributes:
        images: The batch ``(batch, channels, height, width)``, normalised and augmented.
        logits: The supernet's logits ``(batch, classes)`` for it.
        model: The model that is trained.
        mixtures: The factors of the pass by cell type, without gradients.
        cross_entropy: Computes the loss of logits for the batch, with the weights of the classes.
        mean: Averages a tensor over all processes.
        progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
    """

    images: Tensor
    logits: Tensor
    model: SearchModel
    mixtures: Mapping[str, Mixture]
    cross_entropy: Callable[[Tensor], Tensor]
    mean: Callable[[Tensor], Tensor]
    progress: float

    def evaluate(self, state: Mapping[str, Tensor], mixtures: Mapping[str, Mixture]) -> Tensor:
        """Logits of the batch with other weights, without gradients and without moving any statistics.

        Args:
            state: Parameters and buffers of the supernet by name.
            mixtures: Factors by cell type.
        """
        with torch.no_grad():
            state = {name: value.clone() for name, value in state.items()}
            return self.model.virtual_logits(self.images, state, mixtures)


class Regularizer(ABC):
    """A term of the loss that the alphas minimise, of the loss that the weights minimise, or of both.

    Attributes:
        weight_term: Whether ``weight_penalty`` adds a term to the loss of the weights.

    Example:
        ```python
        class AlphaDecay(Regularizer):
            def penalty(self, alphas, progress):
                return 0.01 * torch.stack([a[a.isfinite()].square().sum() for a in alphas.values()]).sum()
        ```
    """

    weight_term: bool = False

    def attach(self, model: SearchModel) -> None:
        """Look at the model that this will regularize, when it is built and whenever its supernet is replaced.

        Args:
            model: The model of the search.

        Raises:
            ConfigError: The two do not go together.
        """
        return

    @abstractmethod
    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """The term of the alphas' loss, a scalar.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; ``-inf`` where the space does not allow an operation.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
        """

    def weight_penalty(self, step: WeightStep) -> Tensor | None:
        """The term of the weights' loss, a scalar; None, the default, if there is none in this step.

        Args:
            step: The step of the weights.
        """
        return None

    def after_epoch(self, model: SearchModel, mixtures: Mapping[str, Mixture]) -> None:
        """Look at the model at the end of an epoch of training; by default nothing happens.

        Args:
            model: The model of the search.
            mixtures: Its present factors by cell type, without gradients.
        """
        return

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from, as numbers, text and tensors; empty by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: The state.
        """
        return
