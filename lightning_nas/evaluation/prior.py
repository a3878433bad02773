"""What is known of architectures before they are trained, alone and beside what another evaluator measures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.files.artifacts import read_tensors
from lightning_nas.spaces.artifact import build_space
from lightning_nas.spaces.base import DifferentiableSpace

LEAST = 1e-6
"""Shares below count as this one, so that what a search has ruled out keeps a finite logarithm."""


class AlphaPrior(Evaluator):
    """Scores an architecture by the factors that differentiable searches gave to its operations; it costs nothing.

    ``log_prior = sum over chosen (edge, operation) of the mean over searches of log share[edge, operation]``, where the
    shares are the factors of the last epoch, scaled to the sum 1 on every edge.

    Objectives: ``log_prior`` (higher is better, at most 0).

    Args:
        alphas: ``alphas.safetensors`` of searches in one space, at least one file.

    Raises:
        ConfigError: There is none.
    """

    stochastic = False

    def __init__(self, alphas: Sequence[str]) -> None:
        if not alphas:
            raise ConfigError("alphas is empty. Name alphas.safetensors of at least one search, or use no prior.")
        self.alphas = tuple(alphas)

    @cached_property
    def logs(self) -> dict[str, Tensor]:
        """Mean logarithms of the shares, ``(edges, operations)`` a cell type.

        Raises:
            ArtifactError: A file cannot be read, or two are of different spaces.
        """
        kept: dict[str, list[Tensor]] = {}
        for path in self.alphas:
            for name, factors in read_tensors(path, repair="Write it by a differentiable search.").items():
                if factors.ndim != 3 or not factors.numel() or not bool((factors[-1] >= 0).all()):
                    raise ArtifactError(
                        f"{path} holds {name!r} of shape {tuple(factors.shape)}; factors (epochs, edges, operations) "
                        "of at least 0 were expected. Write it by a differentiable search."
                    )
                last = factors[-1].double()
                shares = last / last.sum(1, keepdim=True).clamp(min=LEAST)
                kept.setdefault(name, []).append(shares.clamp(min=LEAST).log())
        shapes = {name: sorted({tuple(each.shape) for each in logs}) for name, logs in kept.items()}
        if any(len(shapes[name]) > 1 or len(logs) < len(self.alphas) for name, logs in kept.items()):
            raise ArtifactError(f"{list(self.alphas)} are of different spaces: {shapes}. Name searches in one space.")
        return {name: torch.stack(logs).mean(0) for name, logs in kept.items()}

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Score; see the class.

        Raises:
            ArtifactError: A file cannot be read.
            ConfigError: The factors are of another space.
        """
        return [Evaluation({"log_prior": self._log(architecture)}) for architecture in architectures]

    def _log(self, architecture: Architecture) -> float:
        space = build_space(architecture.space)
        received = {name: tuple(log.shape) for name, log in self.logs.items()}
        if not isinstance(space, DifferentiableSpace):
            raise ConfigError(f"{type(space).__name__} has no alphas, and so no prior. Leave the prior out.")
        expected = {name: (space.edges, len(space.operations)) for name in space.cell_types}
        if received != expected:
            raise ConfigError(
                f"{list(self.alphas)} hold factors {received}, {type(space).__name__} has {expected} (edges and "
                "operations a cell type). Name searches in the same space."
            )
        chosen = space.chosen(architecture)
        return float(sum(self.logs[cell][edge, o] for cell, pairs in chosen.items() for edge, o in pairs))


class PriorEvaluator(Evaluator):
    """Weighs the loss of a short training against what was known of the architecture before.

    ``prior_loss = loss - weight * log_prior - capacity * log(parameters)``. Short trainings favour what learns fast,
    such as skip connections anywhere and small convolutions. Two things say what they cannot: a search, which has
    compared the operations of every edge, and the number of parameters, as the loss of networks that are trained to the
    end falls about linearly with its logarithm. What has less of either must win clearly.

    Objectives: ``prior_loss`` (lower is better), and those of the other evaluator.

    Attributes:
        evaluator: The other one.

    Args:
        evaluator: What measures ``loss`` and, where ``capacity`` is not 0, the cost ``parameters``.
        prior: What a search says; nothing if null.
        weight: What a unit of ``log_prior`` is worth, in units of the loss, at least 0.
        capacity: What a unit of ``log(parameters)`` is worth, likewise.

    Raises:
        ConfigError: A number is below 0.
    """

    def __init__(
        self, evaluator: Evaluator, prior: AlphaPrior | None = None, weight: float = 1.0, capacity: float = 0.0
    ) -> None:
        if not (weight >= 0 and capacity >= 0):
            raise ConfigError(f"weight is {weight}, capacity {capacity}; they must be at least 0.")
        self.evaluator = evaluator
        self.prior = prior
        self.weight = weight
        self.capacity = capacity
        self.stochastic = evaluator.stochastic

    @property
    def version(self) -> int:  # type: ignore[override]  # it is the other one's
        """That of the other evaluator."""
        return self.evaluator.version

    def begin(self, round: int) -> None:
        """That of the other evaluator."""
        self.evaluator.begin(round)

    def prepare_data(self) -> None:
        """That of the other evaluator."""
        self.evaluator.prepare_data()

    def close(self) -> None:
        """That of the other evaluator."""
        self.evaluator.close()

    def to(self, device: torch.device) -> None:
        """Where the other evaluator computes."""
        self.evaluator.to(device)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Those of the other evaluator."""
        return self.evaluator.costs(architecture)

    def state_dict(self) -> dict[str, Any]:
        """That of the other evaluator."""
        return self.evaluator.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Evaluator.load_state_dict``."""
        self.evaluator.load_state_dict(state)

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """What the other evaluator finds, with ``prior_loss``; see the class.

        Raises:
            ArtifactError: The prior cannot be read.
            ConfigError: It is of another space, or the other evaluator measures no loss or counts no parameters.
        """
        logs = [0.0] * len(architectures)
        if self.prior is not None:
            logs = [each.objectives["log_prior"] for each in self.prior.evaluate(architectures)]
        found = self.evaluator.evaluate(architectures)
        return [
            replace(evaluation, objectives={"prior_loss": self._weighed(evaluation, log), **evaluation.objectives})
            for evaluation, log in zip(found, logs, strict=True)
        ]

    def _weighed(self, evaluation: Evaluation, log_prior: float) -> float:
        lacks = [] if "loss" in evaluation.objectives else ["the objective loss"]
        if self.capacity and not evaluation.cost.get("parameters", 0) > 0:
            lacks.append("the cost parameters")
        if lacks:
            raise ConfigError(
                f"{type(self.evaluator).__name__} gives {sorted(evaluation.objectives)} and {sorted(evaluation.cost)}, "
                f"but not {' and '.join(lacks)}. Use an evaluator that does, such as ShortTraining."
            )
        size = self.capacity * math.log(evaluation.cost["parameters"]) if self.capacity else 0.0
        return evaluation.objectives["loss"] - self.weight * log_prior - size
