"""Screening: many architectures by a cheap score, then the neighbours of the best."""

from collections.abc import Sequence
from typing import Any

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.strategies.base import Strategy


class Screen(Strategy):
    """Looks at random architectures and the largest one, then at the neighbours of the best, several times.

    It is made for scores that cost next to nothing and are ranks among all that was scored, such as those of
    ``ZeroCost``. After every round it asks for all architectures again, so that their ranks are taken among the same
    population; ``ZeroCost`` answers that from memory. The default numbers look at about 440 cells of NAS-Bench-201.

    Args:
        initial: Random architectures of the first round, at least 1. The largest architecture is always added.
        parents: Number of the best architectures whose neighbours are looked at, at least 1.
        rounds: Number of rounds of neighbours, at least 0.
        starts: Paths of the ``architecture.json`` of finished searches, whose architectures join the first round.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: Screen, init_args: {initial: 1000}}
        ```
    """

    def __init__(self, initial: int = 250, *, parents: int = 8, rounds: int = 2, starts: Sequence[str] = ()) -> None:
        at_least(1, initial=initial, parents=parents)
        at_least(0, rounds=rounds)
        self.initial = initial
        self.parents = parents
        self.rounds = rounds
        self.starts = tuple(starts)
        self._clear()

    def _clear(self) -> None:
        self.round = 0
        self._due: list[Architecture] = []
        self._asked: dict[str, Architecture] = {}

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``.

        Raises:
            ArtifactError: A start cannot be read.
            ConfigError: A start is not an architecture of the space.
        """
        super().start(*args, **kwargs)
        self._clear()
        starts = [self.read_start(path) for path in self.starts]
        self._enter([self.space.largest(), *starts, *self.sample_unseen(self.initial)])

    def _enter(self, architectures: Sequence[Architecture]) -> None:
        """Ask for new architectures, then for all of them, to have all ranks among the same population."""
        new = {self.space.key(a): a for a in architectures}
        new = {key: a for key, a in new.items() if key not in self._asked and key not in self.failed}
        self._asked |= new
        self._due = [*new.values(), *self._asked.values()] if new else []

    def ask(self, count: int) -> list[Architecture]:
        """What is left of the round, or the next round; see ``Strategy.ask``. Architectures come a second time."""
        if not self._due and self.round < self.rounds:
            self.round += 1
            best = sorted(self._asked, key=lambda key: -self.fitness[key])[: self.parents]
            self._enter([near for key in best for near in self.space.neighbours(self._asked[key])])
        asked: dict[str, Architecture] = {}
        while self._due and len(asked) < count and self.space.key(self._due[0]) not in asked:
            architecture = self._due.pop(0)
            asked[self.space.key(architecture)] = architecture
        return list(asked.values())

    def tell_failed(self, architectures: Sequence[Architecture]) -> None:
        """Ask for these no more; see ``Strategy.tell_failed``."""
        super().tell_failed(architectures)
        self._asked = {key: a for key, a in self._asked.items() if key not in self.failed}
        self._due = [a for a in self._due if self.space.key(a) not in self.failed]

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        return {
            **super().state_dict(),
            "round": self.round,
            "asked": [list(a.choices) for a in self._asked.values()],
            "due": [list(a.choices) for a in self._due],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self.round = state["round"]
        asked = [self.space.architecture(choices) for choices in state["asked"]]
        self._asked = {self.space.key(a): a for a in asked}
        self._due = [self.space.architecture(choices) for choices in state["due"]]
