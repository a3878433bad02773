"""Refinement of the results of other searches by short trainings."""

from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.strategies.base import Result, Strategy, sort_by_score


class Refine(Strategy):
    """Evaluates the neighbours of start architectures, then lets the best of them compete with the starts in finals.

    Round 0 asks for the starts and their neighbours. Every later round asks again for the starts and for the best of
    the previous round, fewer from round to round. ``Strategy.round`` increases with every round, and an evaluator of
    several fidelities, such as ``ShortTraining``, answers with longer trainings, more repeats and new seeds. Only
    results of the same round are compared, and the result is the best of the last round: a start is replaced only by an
    architecture that beats it there.

    Args:
        starts: Paths of the ``architecture.json`` of finished searches. Without any, the largest architecture of the
            space is the start.
        with_largest: Whether the largest architecture is a further start.
        neighbours: Number of neighbours per start that are evaluated, at least 1: the first in ``order``. Null takes
            all.
        finals: Number of contenders besides the starts in round 1, round 2 and so on, at least 1 each, not ascending.
        order: Evaluator that sorts the neighbours by its single objective at no cost, such as ``AlphaPrior``; null for
            random order.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: Refine, init_args: {starts: [search/architecture.json], finals: [4, 2]}}
        evaluator: {class_path: ShortTraining, init_args: {data: ..., steps: [80, 320, 1280]}}
        ```
    """

    def __init__(
        self,
        starts: Sequence[str] = (),
        *,
        with_largest: bool = False,
        neighbours: int | None = None,
        finals: Sequence[int] = (4, 2),
        order: Evaluator | None = None,
    ) -> None:
        at_least(1, neighbours=neighbours)
        if not finals or min(finals) < 1 or list(finals) != sorted(finals, reverse=True):
            raise ConfigError(
                f"finals is {list(finals)}; they must be positive integers that do not ascend, such as 4, 2."
            )
        self.starts = tuple(starts)
        self.with_largest = with_largest
        self.neighbours = neighbours
        self.finals = tuple(finals)
        self.order = order
        self._clear()

    def _clear(self) -> None:
        self.round = 0
        self._begun: list[Architecture] = []  # the starts
        self._field: list[Architecture] = []  # all architectures of the round
        self._due: list[str] = []  # keys of those that have no evaluation in this round yet

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new search; see ``Strategy.start``.

        Raises:
            ArtifactError: A start cannot be read.
            ConfigError: A start is not an architecture of the space.
        """
        super().start(*args, **kwargs)
        self._clear()
        given = [self.read_start(path) for path in self.starts]
        if self.with_largest or not given:
            given.append(self.space.largest())
        self._begun = list({self.space.key(a): a for a in given}.values())
        near = [neighbour for architecture in self._begun for neighbour in self._near(architecture)]
        self._enter([*self._begun, *near])

    def _near(self, architecture: Architecture) -> list[Architecture]:
        """The neighbours of a start that are evaluated."""
        near = list(self.space.neighbours(architecture))
        near = [near[i] for i in torch.randperm(len(near), generator=self.generator).tolist()]
        return (near if self.order is None else sort_by_score(near, self.order))[: self.neighbours]

    def _enter(self, architectures: Sequence[Architecture]) -> None:
        """Begin a round with these architectures; of several forms of a network the first is kept."""
        field = {self.space.key(a): a for a in reversed(architectures)}
        self._field = list(reversed(field.values()))
        self._due = [self.space.key(a) for a in self._field]

    def ask(self, count: int) -> list[Architecture]:
        """Propose what is left of the round, or the next round, which asks for evaluated architectures again."""
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
        """Learn evaluations of the round; see ``Strategy.tell``."""
        super().tell(results)
        known = {self.space.key(architecture) for architecture, _ in results}
        self._due = [key for key in self._due if key not in known]

    def tell_failed(self, architectures: Sequence[Architecture]) -> None:
        """Leave architectures out of this and all later rounds; see ``Strategy.tell_failed``."""
        super().tell_failed(architectures)
        self._begun = self._without_failed(self._begun)
        self._field = self._without_failed(self._field)
        self._due = [key for key in self._due if key not in self.failed]

    def _without_failed(self, architectures: Sequence[Architecture]) -> list[Architecture]:
        return [a for a in architectures if self.space.key(a) not in self.failed]

    def best(self) -> Architecture:
        """The best architecture of the current round so far; see ``Strategy.best``."""
        known = [a for a in self._field if self.space.key(a) not in self._due]
        return max(known, key=lambda a: self.fitness[self.space.key(a)]) if known else super().best()

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        field = [list(a.choices) for a in self._field]
        begun = [list(a.choices) for a in self._begun]
        return {**super().state_dict(), "round": self.round, "field": field, "begun": begun, "due": len(self._due)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self.round = state["round"]
        self._field = [self.space.architecture(choices) for choices in state["field"]]
        self._begun = [self.space.architecture(choices) for choices in state["begun"]]
        keys = [self.space.key(a) for a in self._field]
        self._due = keys[len(keys) - state["due"] :]
