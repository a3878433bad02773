"""What a strategy is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import CheckpointError, ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.spaces.base import SearchSpace

DRAWS = 1000
"""Draws in a row that may all give architectures that are known already, before a space counts as exhausted."""

Result = tuple[Architecture, Evaluation]


class Strategy(ABC):
    """Proposes architectures (ask), and learns what they are worth (tell).

    What it was told is kept by ``SearchSpace.key``, so that the same network is never asked for twice.

    Attributes:
        space: What is searched, from ``start``.
        objective: What decides; lower is better where the name ends in ``loss``.
        generator: Of all random choices.
        round: Of its evaluations, those of different rounds do not compare; see ``Evaluator.begin``.
        evaluated: Every architecture that an evaluation is known of, by its key, in the order in which they came.
        fitness: Their objective, higher is better, likewise.
    """

    space: SearchSpace
    objective: str
    generator: torch.Generator
    round: int = 0
    evaluated: dict[str, Architecture]
    fitness: dict[str, float]

    def start(self, space: SearchSpace, objective: str = "accuracy", seed: int = 0) -> None:
        """Begin a search; what was known before is forgotten.

        Args:
            space: What is searched.
            objective: What decides.
            seed: Of all random choices.
        """
        self.space = space
        self.objective = objective
        self.generator = torch.Generator().manual_seed(derived_seed(seed, type(self).__name__))
        self.evaluated = {}
        self.fitness = {}

    @abstractmethod
    def ask(self, count: int) -> list[Architecture]:
        """Propose architectures of which nothing is known, each another network.

        Args:
            count: How many at most.

        Returns:
            None where the search is over.
        """

    def tell(self, results: Sequence[Result]) -> None:
        """Learn what architectures are worth, those that were asked for or others.

        Raises:
            ConfigError: An evaluation lacks the objective.
            TrainingError: An objective is not finite.
        """
        for architecture, evaluation in results:
            key = self.space.key(architecture)
            self.evaluated[key] = architecture
            self.fitness[key] = self._fitness(architecture, evaluation)

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
                "expected. Leave such architectures out of the space, or mend the evaluator."
            )
        return float(-value if self.objective.endswith("loss") else value)

    def training_paths(self) -> list[Architecture]:
        """What a supernet should train on next; by default nothing is trained."""
        return []

    def best(self) -> Architecture:
        """The best architecture that is known; of equals the first.

        Raises:
            ConfigError: Nothing was told yet.
        """
        if not self.fitness:
            raise ConfigError("Nothing was evaluated yet, so that there is no best architecture. Evaluate some first.")
        return self.evaluated[max(self.fitness, key=self.fitness.__getitem__)]

    def sample_unseen(self, count: int, asked: Sequence[Architecture] = ()) -> list[Architecture]:
        """Draw architectures uniformly that are not known yet, each another network.

        Args:
            count: How many.
            asked: Others to leave out.

        Returns:
            Fewer where the space seems exhausted.
        """
        left_out = {self.space.key(a) for a in asked}
        found: dict[str, Architecture] = {}
        failed = 0
        while len(found) < count and failed < DRAWS:
            drawn = self.space.sample(self.generator)
            key = self.space.key(drawn)
            failed += 1
            if key not in self.evaluated and key not in left_out and key not in found:
                found[key] = drawn
                failed = 0
        return list(found.values())

    def state_dict(self) -> dict[str, Any]:
        """What a search goes on from: tensors, numbers and text."""
        return {
            "objective": self.objective,
            "generator": self.generator.get_state(),
            "choices": [list(a.choices) for a in self.evaluated.values()],
            "fitness": list(self.fitness.values()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of a search back, after ``start``.

        Raises:
            CheckpointError: It is of a search for another objective.
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


def ordered(architectures: Sequence[Architecture], scores: Evaluator) -> list[Architecture]:
    """Architectures by what an evaluator says of them, the best first; equals stay in their order.

    Args:
        architectures: Any.
        scores: With one objective.

    Raises:
        ConfigError: There are others.
    """
    values = []
    for evaluation in scores.evaluate(architectures):
        if len(evaluation.objectives) != 1:
            raise ConfigError(
                f"order gives {sorted(evaluation.objectives)}; it must give one objective. Choose another."
            )
        ((name, value),) = evaluation.objectives.items()
        values.append(value if name.endswith("loss") else -value)
    return [architectures[i] for i in sorted(range(len(architectures)), key=values.__getitem__)]
