"""The contract of search strategies."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ArchitectureError, CheckpointError, ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation, Evaluator, evaluate_each, sign_of
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.strategies.ranking import FitnessRanking

DRAWS = 1000
"""Number of consecutive draws without anything new after which a space counts as exhausted."""

Result = tuple[Architecture, Evaluation]
"""An architecture with its evaluation."""


class Strategy(ABC):
    """Proposes architectures (``ask``) and learns from their evaluations (``tell``).

    Architectures are identified by ``SearchSpace.key``, so that no network is proposed twice, in whatever form it is
    written.

    Attributes:
        space: The search space.
        objective: Name of the objective that decides; lower is better where the name ends in ``loss``.
        generator: The source of all random choices.
        round: Number of the current round, from 0. Evaluations of different rounds are not comparable; see
            ``Evaluator.begin``.
        evaluated: All architectures with a known evaluation, by their keys, in the order in which they were told.
        fitness: The objective of each of these architectures, by the same keys, with the sign changed where lower is
            better: higher fitness is always better.
        failed: All architectures whose evaluation failed, by their keys. A strategy learns no number of them: they have
            no fitness, never become parents or winners, and are not proposed again.

    Example:
        ```python
        class Hybrid(Strategy):
            def ask(self, count):
                if len(self.evaluated) < 20:
                    return self.sample_unseen(count)
                near = self.space.neighbours(self.best())
                return [a for a in near if not self.seen(a)][:count]
        ```
    """

    space: SearchSpace
    objective: str
    generator: torch.Generator
    round: int = 0
    evaluated: dict[str, Architecture]
    fitness: dict[str, float]
    failed: dict[str, Architecture]

    def start(self, space: SearchSpace, objective: str = "accuracy", seed: int = 0) -> None:
        """Begin a new search and forget the previous one.

        Args:
            space: The search space.
            objective: Name of the objective that decides.
            seed: Seed of all random choices.
        """
        self.space = space
        self.objective = objective
        self.generator = torch.Generator().manual_seed(derived_seed(seed, type(self).__name__))
        self.failed = {}
        self._forget()

    def _forget(self) -> None:
        """Forget all evaluations."""
        self.evaluated = {}
        self.fitness = {}
        self._ranking = FitnessRanking()

    @abstractmethod
    def ask(self, count: int) -> list[Architecture]:
        """Propose architectures without an evaluation or a failed one, no two of them the same network.

        Args:
            count: The largest number of architectures to propose.

        Returns:
            The architectures; an empty list ends the search.
        """

    def tell(self, results: Sequence[Result]) -> None:
        """Learn the evaluations of architectures, whether they were asked for or not.

        Args:
            results: Architectures with their evaluations.

        Raises:
            ConfigError: An evaluation lacks the objective.
            TrainingError: An objective is not finite.
        """
        for architecture, evaluation in results:
            key = self.space.key(architecture)
            self.evaluated[key] = architecture
            self.fitness[key] = self._fitness(architecture, evaluation)
            self._ranking.put(key, self.fitness[key])

    def tell_failed(self, architectures: Sequence[Architecture]) -> None:
        """Learn that evaluations failed, by an error or without a finite objective.

        A strategy that waits for evaluations must stop waiting for these: a generation goes on without them, and a
        restart or a final has one architecture less.

        Args:
            architectures: The architectures, whether they were asked for or not.
        """
        self.failed |= {self.space.key(a): a for a in architectures}

    def seen(self, architecture: Architecture) -> bool:
        """Whether an architecture has an evaluation, or a failed one.

        Args:
            architecture: An architecture of the space.
        """
        key = self.space.key(architecture)
        return key in self.evaluated or key in self.failed

    def _fitness(self, architecture: Architecture, evaluation: Evaluation) -> float:
        if self.objective not in evaluation.objectives:
            raise ConfigError(
                f"The evaluator gives {sorted(evaluation.objectives)}, not {self.objective!r}. Choose another "
                "objective or evaluator."
            )
        value = torch.tensor(evaluation.objectives[self.objective], dtype=torch.float64)
        if not value.isfinite():
            raise TrainingError(
                f"{self.space.text(architecture)} has the {self.objective} {float(value)}; a finite number was "
                "expected. Exclude such architectures from the space, or fix the evaluator."
            )
        return float(sign_of(self.objective) * value)

    def training_paths(self) -> list[Architecture]:
        """The architectures that a supernet should be trained on next; by default none."""
        return []

    def winner(self) -> Architecture | None:
        """The architecture that the search ends with, where that is not the best of the latest evaluations.

        A strategy whose evaluations are noisy, and which weighs several of them, overrides this. None, the default,
        leaves the decision to the evaluations.
        """
        return None

    def best(self) -> Architecture:
        """The architecture with the highest fitness; among equals the first.

        One whose later evaluation failed comes after all others.

        Raises:
            ConfigError: Nothing has been evaluated yet.
        """
        if not self.fitness:
            raise ConfigError("Nothing has been evaluated yet, so there is no best architecture. Evaluate some first.")
        first = next(iter(self._ranking))
        return self.evaluated[next((key for key in self._ranking if key not in self.failed), first)]

    def leaders(self, count: int) -> list[Architecture]:
        """The architectures with the highest fitness, best first; among equals those that were told first.

        Args:
            count: Their number; all known ones where there are fewer.
        """
        return [self.evaluated[key] for key in islice(self._ranking, count)]

    def read_start(self, path: str) -> Architecture:
        """Read an architecture that the search begins with.

        Args:
            path: Path of the ``architecture.json`` of a finished search.

        Raises:
            ArtifactError: The file cannot be read.
            ConfigError: It isn't an architecture of the space, or violates its constraints.
        """
        found = load_architecture(path)
        try:
            self.space.check(found)
        except ArchitectureError as error:
            raise ConfigError(
                f"{path} cannot be a start of this search: {error} Name architectures of its space that meet its "
                "constraints."
            ) from None
        return found

    def sample_unseen(self, count: int, exclude: Sequence[Architecture] = ()) -> list[Architecture]:
        """Sample architectures uniformly without an evaluation or a failed one, no two of them the same network.

        Args:
            count: Number of architectures.
            exclude: Further architectures to leave out.

        Returns:
            The architectures; fewer than ``count`` where the space seems exhausted.
        """
        excluded = {self.space.key(a) for a in exclude}
        found: dict[str, Architecture] = {}
        failed = 0
        while len(found) < count and failed < DRAWS:
            drawn = self.space.sample(self.generator)
            key = self.space.key(drawn)
            failed += 1
            if key not in self.evaluated and key not in self.failed and key not in excluded and key not in found:
                found[key] = drawn
                failed = 0
        return list(found.values())

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs, as tensors, numbers and text."""
        return {
            "objective": self.objective,
            "generator": self.generator.get_state(),
            "choices": [list(a.choices) for a in self.evaluated.values()],
            "fitness": list(self.fitness.values()),
            "failed": [list(a.choices) for a in self.failed.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; call ``start`` first.

        Args:
            state: The state of a search in the same space, for the same objective.

        Raises:
            CheckpointError: The state is of a search for another objective.
        """
        if state["objective"] != self.objective:
            raise CheckpointError(
                f"The checkpoint's search is for {state['objective']!r}, this one for {self.objective!r}. Use the "
                "configuration that it was made with."
            )
        self.generator.set_state(state["generator"])
        architectures = [self.space.architecture(choices) for choices in state["choices"]]
        self.evaluated = {self.space.key(a): a for a in architectures}
        self.fitness = dict(zip(self.evaluated, state["fitness"], strict=True))
        self._ranking = FitnessRanking(self.fitness)
        failed = [self.space.architecture(choices) for choices in state.get("failed", [])]
        self.failed = {self.space.key(a): a for a in failed}


def sort_by_score(architectures: Sequence[Architecture], evaluator: Evaluator) -> list[Architecture]:
    """Sort architectures by the one objective of an evaluator, best first; equals keep their order.

    Architectures whose evaluation failed, or has no finite objective, come last.

    Args:
        architectures: The architectures.
        evaluator: An evaluator with a single objective, such as ``ZeroCost``.

    Raises:
        ConfigError: The evaluator has several objectives.
    """
    values = []
    for evaluation in evaluate_each(evaluator, architectures):
        if evaluation.failure is not None:
            values.append(math.inf)
            continue
        if len(evaluation.objectives) != 1:
            raise ConfigError(
                f"order gives {sorted(evaluation.objectives)}; a single objective was expected. Choose another "
                "evaluator."
            )
        ((name, value),) = evaluation.objectives.items()
        signed = -sign_of(name) * value
        values.append(math.inf if math.isnan(signed) else signed)
    return [architectures[i] for i in sorted(range(len(architectures)), key=values.__getitem__)]
