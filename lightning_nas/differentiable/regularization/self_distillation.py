"""Self-distillation from earlier supernets."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.checks import at_least, greater_than
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer, WeightStep
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.supernet import Mixture

Teacher = dict[str, dict[str, Any]]
"""A supernet: ``state`` holds parameters and buffers by name, ``mixtures`` the parts of a ``Mixture`` by cell type."""


class SelfDistillation(Regularizer):
    """Lets the weights follow the vote of earlier supernets: ``weight * temperature^2 * KL(vote || p)``.

    ``p`` is the softmax of the supernet's logits divided by the temperature. ``vote`` is the mean of the same softmax
    of the supernets after the last ``teachers`` epochs, each with its own weights and factors, on the same batch and
    normalised by its statistics. There is no term before the end of the first epoch. It does not reach the alphas,
    except under ``OneLevel``, where they follow the weights' loss. Every teacher takes the memory of a supernet and the
    time of a forward pass. When operations are removed, or the supernet is replaced, all teachers are dropped.

    A reconstruction: only the abstract of the paper is public. Which earlier supernets vote, how many, the temperature,
    the weight, and that the alphas have no such term, are our choices.

    References:
        1. Zhu, Li, Liu, Wang: Improving Differentiable Architecture Search via Self-Distillation, 2023,
           https://arxiv.org/abs/2302.05629

    Attributes:
        held: The teachers, the oldest first.

    Args:
        weight: Factor of the term, at least 0.
        teachers: Number of supernets that vote, at least 1.
        temperature: Divisor of the logits, greater than 0.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        regularizers: [{class_path: SelfDistillation, init_args: {weight: 1.0, teachers: 3}}]
        ```
    """

    weight_term = True

    def __init__(self, weight: float = 1.0, *, teachers: int = 3, temperature: float = 1.0) -> None:
        at_least(0, weight=weight)
        at_least(1, teachers=teachers)
        greater_than(0, temperature=temperature)
        self.weight = weight
        self.teachers = teachers
        self.temperature = temperature
        self.held: list[Teacher] = []

    def attach(self, model: SearchModel) -> None:
        """Start without teachers: those of another supernet do not fit.

        Args:
            model: The model of the search.

        Raises:
            ConfigError: Its supernet is compiled.
        """
        self.held = []
        if model.runner.compile is not False:
            raise ConfigError(
                f"SelfDistillation evaluates earlier supernets, which compile: {model.runner.compile} cannot do. Use "
                "compile: false."
            )

    def penalty(self, alphas: Mapping[str, Tensor], progress: float) -> Tensor:
        """Zero: the alphas have no term of their own.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type; ``-inf`` where the space does not allow an operation.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last; not used.
        """
        return 0.0 * torch.stack([a.masked_fill(~a.isfinite(), 0.0).sum() for a in alphas.values()]).sum()

    def vote(self, step: WeightStep) -> Tensor:
        """Mean probabilities ``(batch, classes)`` of the teachers.

        Args:
            step: The step of the weights.

        Raises:
            ConfigError: There is no teacher yet.
        """
        if not self.held:
            raise ConfigError("There is no teacher before the end of the first epoch. Train for one epoch first.")
        votes = []
        for teacher in self.held:
            state = {name: value.to(step.images.device) for name, value in teacher["state"].items()}
            mixtures = {name: Mixture(*parts).to(step.images.device) for name, parts in teacher["mixtures"].items()}
            votes.append((step.evaluate(state, mixtures) / self.temperature).softmax(1))
        return torch.stack(votes).mean(0)

    def weight_penalty(self, step: WeightStep) -> Tensor | None:
        """The term of the weights' loss, a scalar; None while there is no teacher.

        Args:
            step: The step of the weights.
        """
        if not self.held or not self.weight:
            return None
        own = (step.logits.float() / self.temperature).log_softmax(1)
        divergence = F.kl_div(own, self.vote(step).to(own.dtype), reduction="batchmean")
        return self.weight * self.temperature**2 * divergence

    def after_epoch(self, model: SearchModel, mixtures: Mapping[str, Mixture]) -> None:
        """Keep the supernet of this epoch as a teacher.

        Args:
            model: The model of the search.
            mixtures: Its present factors by cell type.
        """
        supernet = model.supernet
        state = {n: t.detach().clone() for n, t in (*supernet.named_parameters(), *supernet.named_buffers())}
        teacher: Teacher = {
            "state": state,
            "mixtures": {name: tuple(mixture.detached()) for name, mixture in mixtures.items()},
        }
        self.held = [*self.held, teacher][-self.teachers :]

    def state_dict(self) -> dict[str, Any]:
        """The teachers."""
        return {"held": self.held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: The state.
        """
        self.held = list(state["held"])
