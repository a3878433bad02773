"""Self-distillation from earlier supernets."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.base import Regularizer, WeightStep
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import Mixture

Teacher = dict[str, dict[str, Any]]
"""``state``: parameters and buffers by name; ``mixtures``: operations, edges and active of every cell type."""


class SelfDistillation(Regularizer):
    """``weight * temperature^2 * KL(vote || p)``: the weights follow the vote of the supernets of epochs before.

    ``p`` is the softmax of the supernet's logits over the temperature, ``vote`` the mean of those of the last
    ``teachers`` epochs' supernets, each with its own weights and factors, on the same batch and normalised by its
    statistics. Until the first epoch has ended there is no term. The alphas have none either, except under
    ``OneLevel``, where they follow the weights' loss. Every teacher takes the memory of a supernet and the time of a
    forward pass. Those of before a change of the supernet, such as operations that were taken away, are dropped.

    A reconstruction: of the paper only the abstract is public. Which earlier supernets, how many, the temperature, the
    weight, and that the alphas have no such term, are ours.

    References:
        1. Zhu, Li, Liu, Wang: Improving Differentiable Architecture Search via Self-Distillation, 2023,
           https://arxiv.org/abs/2302.05629

    Args:
        weight: Factor of the term, at least 0.
        teachers: Supernets that vote, at least 1.
        temperature: Divisor of the logits, above 0.

    Raises:
        ConfigError: A number is out of its range.
    """

    weight_term = True

    def __init__(self, weight: float = 1.0, teachers: int = 3, temperature: float = 1.0) -> None:
        if weight < 0 or teachers < 1 or temperature <= 0:
            raise ConfigError(
                f"weight is {weight}, teachers {teachers} and temperature {temperature}; expected are at least 0, at "
                "least 1, and above 0."
            )
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
        """Zero: the alphas have no term of their own."""
        return 0.0 * torch.stack([a[a.isfinite()].sum() for a in alphas.values()]).sum()

    def vote(self, step: WeightStep) -> Tensor:
        """Mean probabilities of the teachers, ``(batch, classes)``.

        Args:
            step: The batch, and how it is evaluated.

        Raises:
            ConfigError: There is no teacher yet.
        """
        if not self.held:
            raise ConfigError("There is no teacher before the end of the first epoch. Train one, then ask for a vote.")
        votes = []
        for teacher in self.held:
            state = {name: value.to(step.images.device) for name, value in teacher["state"].items()}
            mixtures = {name: Mixture(*parts).to(step.images.device) for name, parts in teacher["mixtures"].items()}
            votes.append((step.evaluate(state, mixtures) / self.temperature).softmax(1))
        return torch.stack(votes).mean(0)

    def weight_penalty(self, step: WeightStep) -> Tensor | None:
        """The term of the weights' loss; None while there is no teacher."""
        if not self.held or not self.weight:
            return None
        own = (step.logits.float() / self.temperature).log_softmax(1)
        divergence = F.kl_div(own, self.vote(step).to(own.dtype), reduction="batchmean")
        return self.weight * self.temperature**2 * divergence

    def after_epoch(self, model: SearchModel, mixtures: Mapping[str, Mixture]) -> None:
        """Keep this epoch's supernet as a teacher."""
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
        """See ``Regularizer.state_dict``."""
        self.held = list(state["held"])
