"""What a hypergradient is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.errors import ConfigError

Batch = Any
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class VirtualStep:
    """The SGD step of the weight optimizer, as a function.

    ``d = gradient + weight_decay * w``, ``m' = momentum * m + (1 - dampening) * d`` (``d`` at the first step),
    ``w' = w - learning_rate * (d + momentum * m' if nesterov else m')``.

    Attributes:
        learning_rate: The weight optimizer's current one.
        momentum: 0 for none.
        dampening: Of the momentum.
        weight_decay: L2.
        nesterov: Whether the momentum looks ahead.
        buffers: Momentum buffers by weight name; none before the first step.
    """

    learning_rate: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    buffers: Weights

    def __call__(self, weights: Weights, gradients: Weights) -> dict[str, Tensor]:
        """The weights after one step, differentiable in both arguments."""
        moved = {}
        for name, weight in weights.items():
            direction = gradients[name] + self.weight_decay * weight
            if self.momentum:
                buffer = self.buffers.get(name)
                velocity = direction if buffer is None else self.momentum * buffer + (1 - self.dampening) * direction
                direction = direction + self.momentum * velocity if self.nesterov else velocity
            moved[name] = weight - self.learning_rate * direction
        return moved

    @classmethod
    def of(cls, optimizer: Optimizer, weights: Weights) -> "VirtualStep":
        """The next step of an optimizer.

        Raises:
            ConfigError: It is not plain SGD with one parameter group.
        """
        if type(optimizer) is not torch.optim.SGD or len(optimizer.param_groups) != 1:
            raise ConfigError(
                f"A second-order hypergradient unrolls one step of SGD; the weights are trained by "
                f"{type(optimizer).__name__} with {len(optimizer.param_groups)} parameter groups. Use "
                "torch.optim.SGD, or FirstOrder."
            )
        group = optimizer.param_groups[0]
        if group["maximize"]:
            raise ConfigError("A second-order hypergradient cannot unroll SGD with maximize=True.")
        buffers = {n: optimizer.state[w].get("momentum_buffer") for n, w in weights.items() if w in optimizer.state}
        return cls(
            learning_rate=float(group["lr"]),
            momentum=group["momentum"],
            dampening=group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            buffers={name: b for name, b in buffers.items() if b is not None},
        )

    def factor(self, name: str) -> float:
        """The factor of a weight's gradient in its step, learning rate included."""
        if not self.momentum:
            return self.learning_rate
        share = 1.0 if self.buffers.get(name) is None else 1 - self.dampening
        return self.learning_rate * (1 + self.momentum * share if self.nesterov else share)


@dataclass(frozen=True)
class BilevelProblem:
    """What a hypergradient may look at.

    Attributes:
        weights: The network's parameters by name.
        alphas: The architecture parameters, in a fixed order.
        train_loss: ``(batch, weights) -> loss`` that the weights minimise; ``weights`` None means the live ones.
        search_loss: Likewise, the loss that the alphas minimise, regularizers included.
        step: The next SGD step of the weights; None where the optimizer is no SGD.
        mean: Averages a tensor over all processes; the identity with one.
    """

    weights: Weights
    alphas: tuple[Tensor, ...]
    train_loss: Callable[[Batch, Weights | None], Tensor]
    search_loss: Callable[[Batch, Weights | None], Tensor]
    step: VirtualStep | None
    mean: Callable[[Tensor], Tensor]

    def gradients(self, loss: Tensor, of: tuple[Tensor, ...], **options: Any) -> tuple[Tensor, ...]:
        """Gradients, zeros where the loss does not depend on a tensor."""
        found = torch.autograd.grad(loss, of, allow_unused=True, **options)
        return tuple(torch.zeros_like(t) if g is None else g for g, t in zip(found, of, strict=True))


class Hypergradient(ABC):
    """The gradient of the search loss with respect to the alphas, at weights that answer to the alphas.

    Attributes:
        needs_sgd: Whether the weights' next step must be that of SGD.
        one_level: Whether weights and alphas follow the same loss on all the data; ``gradient`` is not called then.
    """

    needs_sgd: bool = False
    one_level: bool = False

    def check(self, model: SearchModel, regularizers: Sequence[Regularizer]) -> None:
        """Refuse a search in which a step of the weights cannot be unrolled, if this gradient does so.

        Args:
            model: The model of the search.
            regularizers: Terms of its losses.

        Raises:
            ConfigError: The supernet runs only with its own weights, two passes differ by their random draws, or the
                weights follow a term that the unrolled step does not know.
        """
        if not self.needs_sgd:
            return
        own, runner = type(self).__name__, model.runner
        if runner.checkpoint_cells or runner.compile is not False:
            raise ConfigError(
                f"{own} evaluates the supernet at weights that are not its own, which checkpoint_cells: "
                f"{runner.checkpoint_cells} and compile: {runner.compile} cannot do. Use checkpoint_cells: false and "
                "compile: false, or FirstOrder."
            )
        if model.relaxation.stochastic:
            raise ConfigError(
                f"{type(model.relaxation).__name__} draws anew in every pass, but {own} compares passes with each "
                "other. Use FirstOrder or OneLevel, or another relaxation."
            )
        random = [operation.name for operation in model.space.candidates if operation.is_random]
        if random:
            raise ConfigError(
                f"The operation {random[0]} draws anew in every pass, but {own} compares passes with each other. Use "
                f"FirstOrder, or a space without {random[0]}."
            )
        for regularizer in regularizers:
            if regularizer.weight_term:
                name = type(regularizer).__name__
                raise ConfigError(
                    f"{own} unrolls a step of the weights without the term of {name}. Use FirstOrder or OneLevel, or "
                    f"leave {name} out."
                )

    @abstractmethod
    def gradient(self, problem: BilevelProblem, train: Batch, search: Batch) -> tuple[Tensor, ...]:
        """One gradient per alpha, averaged over all processes.

        Args:
            problem: Parameters and losses.
            train: A batch of the train half.
            search: A batch of the search half.
        """
