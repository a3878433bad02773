"""Refinement of what other searches have found, by short trainings."""

from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.strategies.base import Result, Strategy, ordered


class Refine(Strategy):
    """Looks at the neighbours of starts, then lets the best of them and the starts compete in finals.

    Round 0 asks for the starts and their neighbours. Every later round asks for the starts again and for the best of
    the round before, fewer from round to round. With every round ``Strategy.round`` rises, which an evaluator of
    several fidelities, such as ``ShortTraining``, follows with longer trainings, more of them and fresh seeds. Only
    results of one round are compared, and the best of the last one is what was found: a start is left only for an
    architecture that beats it there.

    Args:
        starts: ``architecture.json`` of searches that have ended; the space's largest architecture where there is none.
        with_largest: Whether the largest architecture is a start beside them.
        neighbours: How many of a start's neighbours are looked at, at least 1: the first in ``order``; all if null.
        finals: How many contenders beside the starts come into round 1, 2 and so on, at least 1 each, not rising.
        order: What scores the neighbours by its one objective, at no cost, such as ``AlphaPrior``; null for random
            order.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        starts: Sequence[str] = (),
        with_largest: bool = False,
        neighbours: int | None = None,
        finals: Sequence[int] = (4, 2),
        order: Evaluator | None = None,
    ) -> None:
        if neighbours is not None and neighbours < 1:
            raise ConfigError(f"neighbours is {neighbours}; it must be at least 1, or null for all.")
        if not finals or min(finals) < 1 or list(finals) != sorted(finals, reverse=True):
            raise ConfigError(
                f"finals is {list(finals)}; expected are numbers from 1 on that do not rise, such as 4, 2."
            )
        self.starts = tuple(starts)
        self.with_largest = with_largest
        self.neighbours = neighbours
        self.finals = tuple(finals)
        self.order = order
        self._clear()

    def _clear(self) -> None:
        self.round = 0
        self._begun: list[Architecture] = []
        self._field: list[Architecture] = []
        self._due: list[str] = []

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``.

        Raises:
            ArtifactError: A start cannot be read.
            ConfigError: A start is no architecture of the space.
        """
        super().start(*args, **kwargs)
        self._clear()
        given = [self._read(path) for path in self.starts]
        if self.with_largest or not given:
            given.append(self.space.largest())
        self._begun = list({self.space.key(a): a for a in given}.values())
        near = [neighbour for architecture in self._begun for neighbour in self._near(architecture)]
        self._enter([*self._begun, *near])

    def _read(self, path: str) -> Architecture:
        found = load_architecture(path)
        try:
            self.space.check(found)
        except ArchitectureError as error:
            raise ConfigError(
                f"{path} is no start of this search: {error} Name architectures of its space within its limits."
            ) from None
        return found

    def _near(self, architecture: Architecture) -> list[Architecture]:
        """The neighbours that are looked at."""
        near = list(self.space.neighbours(architecture))
        near = [near[i] for i in torch.randperm(len(near), generator=self.generator).tolist()]
        return (near if self.order is None else ordered(near, self.order))[: self.neighbours]

    def _enter(self, architectures: Sequence[Architecture]) -> None:
        """Begin a round with these, of equals the first."""
        field = {self.space.key(a): a for a in reversed(architectures)}
        self._field = list(reversed(field.values()))
        self._due = [self.space.key(a) for a in self._field]

    def ask(self, count: int) -> list[Architecture]:
        """What is left of the round, or the next one; see ``Strategy.ask``. Later rounds ask for what is known."""
        if not self._due and self.round < len(self.finals):
            values = {self.space.key(a): self.fitness[self.space.key(a)] for a in self._field}
            own = {self.space.key(a) for a in self._begun}
            contenders = [a for a in self._field if self.space.key(a) not in own]
            contenders.sort(key=lambda a: -values[self.space.key(a)])
            self._enter([*self._begun, *contenders[: self.finals[self.round]]])
            self.round += 1
        due = set(self._due[:count])
        return [a for a in self._field if self.space.key(a) in due]

    def tell(self, results: Sequence[Result]) -> None:
        """Learn; see ``Strategy.tell``."""
        super().tell(results)
        known = {self.space.key(architecture) for architecture, _ in results}
        self._due = [key for key in self._due if key not in known]

    def best(self) -> Architecture:
        """The best of the present round, as far as it has come; see ``Strategy.best``."""
        known = [a for a in self._field if self.space.key(a) not in self._due]
        return max(known, key=lambda a: self.fitness[self.space.key(a)]) if known else super().best()

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        field = [list(a.choices) for a in self._field]
        begun = [list(a.choices) for a in self._begun]
        return {**super().state_dict(), "round": self.round, "field": field, "begun": begun, "due": len(self._due)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self.round = state["round"]
        self._field = [self.space.architecture(choices) for choices in state["field"]]
        self._begun = [self.space.architecture(choices) for choices in state["begun"]]
        keys = [self.space.key(a) for a in self._field]
        self._due = keys[len(keys) - state["due"] :]
