"""Prior knowledge about architectures: alone, and weighed against the loss of short trainings."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.wrapper import EvaluatorWrapper
from lightning_nas.files.artifacts import read_tensors
from lightning_nas.spaces.artifact import build_space
from lightning_nas.spaces.base import DifferentiableSpace

LEAST = 1e-6
"""The smallest share that counts, so that an operation which a search has ruled out keeps a finite logarithm."""


class AlphaPrior(Evaluator):
    """Scores an architecture by the factors that differentiable searches gave to its operations, at no cost.

    ``log_prior = sum over the chosen (edge, operation) of the mean over searches of log share[edge, operation]``, where
    ``share`` are the factors of the last epoch, scaled to sum to 1 on every edge.

    Objectives: ``log_prior``, at most 0; higher is better.

    Args:
        alphas: Paths of the ``alphas.safetensors`` of one or more searches in the same space.

    Raises:
        ConfigError: ``alphas`` is empty.

    Example:
        ```yaml
        order: {class_path: AlphaPrior, init_args: {alphas: [search/alphas.safetensors]}}
        ```
    """

    stochastic = False

    def __init__(self, alphas: Sequence[str]) -> None:
        if not alphas:
            raise ConfigError("alphas is empty. Name alphas.safetensors of at least one search, or use no prior.")
        self.alphas = tuple(alphas)

    @cached_property
    def logs(self) -> dict[str, Tensor]:
        """Mean logarithms of the shares by cell type, each of shape ``(edges, operations)``.

        Raises:
            ArtifactError: A file cannot be read, or two files are of different spaces.
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
        """Score architectures; see ``Evaluator.evaluate``.

        Raises:
            ArtifactError: A file cannot be read, or two files are of different spaces.
            ConfigError: The architectures are of another space than the searches.
        """
        return [Evaluation({"log_prior": self._log_prior(architecture)}) for architecture in architectures]

    def _log_prior(self, architecture: Architecture) -> float:
        space = build_space(architecture.space)
        received = {name: tuple(log.shape) for name, log in self.logs.items()}
        if not isinstance(space, DifferentiableSpace):
            raise ConfigError(f"{type(space).__name__} has no alphas, and so no prior. Leave the prior out.")
        expected = {name: (space.edges, len(space.operations)) for name in space.cell_types}
        if received != expected:
            raise ConfigError(
                f"{list(self.alphas)} hold factors {received}, {type(space).__name__} has {expected} (edges and "
                "operations per cell type). Name searches in the same space."
            )
        chosen = space.chosen(architecture)
        return float(sum(self.logs[cell][edge, o] for cell, pairs in chosen.items() for edge, o in pairs))


class PriorEvaluator(EvaluatorWrapper):
    """Weighs the loss of a short training against prior knowledge about the architecture.

    ``prior_loss = loss - weight * log_prior - capacity * log(parameters)``

    Short trainings favour what learns fast, such as skip connections and small convolutions. Two kinds of prior
    knowledge correct this: a differentiable search, which has compared the operations of every edge, and the number of
    parameters, since the loss of fully trained networks falls roughly linearly in its logarithm. An architecture with
    less of either has to win clearly.

    Objectives: ``prior_loss``, lower is better, and those of the wrapped evaluator.

    Attributes:
        evaluator: The wrapped evaluator.

    Args:
        evaluator: Measures ``loss`` and, if ``capacity`` is not 0, the cost ``parameters``.
        prior: The prior of a differentiable search; none if null.
        weight: Weight of ``log_prior`` in units of the loss, at least 0.
        capacity: Weight of ``log(parameters)`` in units of the loss, at least 0. The default leaves the size out.

    Raises:
        ConfigError: A weight is negative.

    Example:
        ```yaml
        evaluator:
          class_path: PriorEvaluator
          init_args:
            evaluator: {class_path: ShortTraining, init_args: {data: ...}}
            prior: {class_path: AlphaPrior, init_args: {alphas: [search/alphas.safetensors]}}
            weight: 0.1
            capacity: 0.2
        ```
    """

    def __init__(
        self, evaluator: Evaluator, *, prior: AlphaPrior | None = None, weight: float = 1.0, capacity: float = 0.0
    ) -> None:
        super().__init__(evaluator)
        at_least(0, weight=weight, capacity=capacity)
        self.prior = prior
        self.weight = weight
        self.capacity = capacity

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """The evaluations of the wrapped evaluator, with ``prior_loss``.

        Raises:
            ArtifactError: The prior cannot be read.
            ConfigError: The prior is of another space, or the wrapped evaluator measures no loss or no parameters.
        """
        logs = [0.0] * len(architectures)
        if self.prior is not None:
            logs = [each.objectives["log_prior"] for each in self.prior.evaluate(architectures)]
        found = self.evaluator.evaluate(architectures)
        return [self._with_prior(*pair) for pair in zip(found, logs, strict=True)]

    def _with_prior(self, evaluation: Evaluation, log_prior: float) -> Evaluation:
        if evaluation.failure is not None:
            return evaluation
        objectives = {"prior_loss": self._prior_loss(evaluation, log_prior), **evaluation.objectives}
        return replace(evaluation, objectives=objectives)

    def _prior_loss(self, evaluation: Evaluation, log_prior: float) -> float:
        missing = [] if "loss" in evaluation.objectives else ["the objective loss"]
        if self.capacity and not evaluation.cost.get("parameters", 0) > 0:
            missing.append("the cost parameters")
        if missing:
            raise ConfigError(
                f"{type(self.evaluator).__name__} gives {sorted(evaluation.objectives)} and {sorted(evaluation.cost)}, "
                f"but not {' and '.join(missing)}. Use an evaluator that does, such as ShortTraining."
            )
        size = self.capacity * math.log(evaluation.cost["parameters"]) if self.capacity else 0.0
        return evaluation.objectives["loss"] - self.weight * log_prior - size
