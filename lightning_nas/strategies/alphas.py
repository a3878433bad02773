"""The base of strategies that evolve alphas."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.strategies.base import Result, Strategy

SAMPLES = 300
"""Number of random architectures that show which values the choices of a space take."""

ROUNDS = 100
"""Number of times that a generation of children is drawn before those that are architectures have to suffice."""


class AlphaEvolution(Strategy):
    """Evolves a population of alphas: matrices of numbers in [0, 1], with one row per choice and one column per value.

    Alphas stand for the architecture that takes the value with the largest number in every row; where these values are
    not an architecture of the space, the alphas are drawn again. The alphas of a random architecture are uniform
    numbers, of which two per row are swapped so that the largest belongs to the architecture's value.

    A generation is asked for in parts. A member whose architecture has been evaluated before costs no query.

    With ``rescore``, all living members are evaluated at once in every generation, including survivors and known
    architectures, and the evaluations of earlier generations are forgotten. This suits scores that change, such as
    those of a supernet that is trained during the search. The search ends when the budget is too small for all of them.

    Attributes:
        population_size: Number of members of a generation.
        rescore: Whether all living members are evaluated in every generation.
        masks: Which values are evolved, bool ``(choices, values)``: those that random architectures take.
        members: Alphas of the current generation, ``(n, choices, values)``; 0 outside the masks.
        generation: The architectures of the members.
        keys: The keys of these architectures.
    """

    population_size: int
    rescore: bool
    masks: Tensor
    members: Tensor
    generation: list[Architecture]
    keys: list[str]

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        num_values = self.space.num_values
        self.masks = torch.zeros(len(num_values), max(num_values), dtype=torch.bool)
        for _ in range(SAMPLES):
            self.masks[range(len(num_values)), self.space.sample(self.generator).choices] = True
        self._stale = 0  # generations in a row without a new architecture
        self._over = False
        self.enter(self.no_alphas())
        self._due = False  # with rescore: whether the living members have yet to be evaluated

    @property
    def max_alive(self) -> int:
        """The largest number of living members."""
        return self.population_size

    @abstractmethod
    def breed(self) -> Tensor:
        """Make the alphas of the next generation, once all members of the current one have a fitness.

        Returns:
            The alphas, ``(n, choices, values)``; none where the search is over. After finitely many generations without
            a new architecture, there has to be a generation with one, or none.
        """

    def ask(self, count: int) -> list[Architecture]:
        """Propose the members of the current generation that have no fitness yet, or else those of the next one.

        Raises:
            ConfigError: With ``rescore``, ``count`` is too small for all members that may be alive.
        """
        if self.rescore and not self.evaluated and count < self.max_alive:
            raise ConfigError(
                f"A generation of {count} has no room for {self.max_alive} individuals, all of which rescore asks for "
                "at once. Raise generation_size (and the budget, if that is lower), or lower population_size."
            )
        while not self._over:
            if unknown := self._unknown():
                return unknown[:count] if not self.rescore or len(unknown) <= count else []
            self.enter(self.breed())
            self._over = not self.generation
            self._stale = 0 if self._unknown() else self._stale + 1
        return []

    def tell(self, results: Sequence[Result]) -> None:
        """Learn evaluations; with ``rescore``, those of earlier generations are forgotten. See ``Strategy.tell``."""
        if self.rescore and results:
            self._forget()
        super().tell(results)
        self._due = self.rescore and not self.alive().keys() <= self.evaluated.keys()

    def tell_failed(self, architectures: Sequence[Architecture]) -> None:
        """Let the generation go on without these architectures; see ``Strategy.tell_failed``."""
        super().tell_failed(architectures)
        kept = [key not in self.failed for key in self.keys]
        due = self._due
        self.enter(self.members[kept])
        self._due = due and not (self.rescore and self.alive().keys() <= self.evaluated.keys())

    def training_paths(self) -> list[Architecture]:
        """All architectures of the current generation, known ones too, so that a supernet trains on each of them."""
        return list(self.generation)

    def alive(self) -> dict[str, Architecture]:
        """The architectures among which the next generation is selected, by their keys."""
        return dict(zip(self.keys, self.generation, strict=True))

    def _unknown(self) -> list[Architecture]:
        if self.rescore:
            return list(self.alive().values()) if self._due else []
        return [architecture for key, architecture in self.alive().items() if key not in self.evaluated]

    def enter(self, members: Tensor) -> None:
        """Replace the current generation.

        Args:
            members: Alphas of the next generation, ``(n, choices, values)``.
        """
        self.members = members
        self.generation = [self.space.architecture(choices) for choices in self.decode(members).tolist()]
        self.keys = [self.space.key(a) for a in self.generation]
        self._due = bool(self.keys)

    def decode(self, alphas: Tensor) -> Tensor:
        """The choices ``(n, choices)`` that alphas ``(n, choices, values)`` stand for."""
        return alphas.masked_fill(~self.masks, -torch.inf).argmax(2)

    def no_alphas(self) -> Tensor:
        """An empty set of alphas, ``(0, choices, values)``."""
        return self.uniform(0)

    def uniform(self, count: int) -> Tensor:
        """Uniform alphas, ``(count, choices, values)``, which need not stand for architectures."""
        return torch.rand(count, *self.masks.shape, dtype=torch.float64, generator=self.generator) * self.masks

    def valid(self, alphas: Tensor) -> Tensor:
        """Those of the alphas that stand for architectures of the space, apart from those whose evaluation failed."""
        return alphas[[self._is_architecture(choices) for choices in self.decode(alphas).tolist()]]

    def _is_architecture(self, choices: list[int]) -> bool:
        try:
            architecture = self.space.architecture(choices)
        except ArchitectureError:
            return False
        return not self.failed or self.space.key(architecture) not in self.failed

    def unseen_alphas(self) -> Tensor:
        """Alphas of random architectures without an evaluation; none where the space is exhausted."""
        drawn = self.sample_unseen(self.population_size)
        if not drawn:
            return self.no_alphas()
        chosen = torch.tensor([a.choices for a in drawn]).unsqueeze(2)
        # the samples at the start may have missed a rare value
        self.masks = self.masks.clone()
        self.masks[torch.arange(len(self.masks)), chosen[:, :, 0]] = True
        alphas = self.uniform(len(drawn))
        top = self.decode(alphas).unsqueeze(2)
        largest, other = alphas.gather(2, top), alphas.gather(2, chosen)
        return alphas.scatter(2, top, other).scatter(2, chosen, largest)

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        state = {"masks": self.masks, "members": self.members, "stale": self._stale, "over": self._over}
        return {**super().state_dict(), **state, "due": self._due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self.masks = state["masks"]
        self.enter(state["members"])
        self._stale = state["stale"]
        self._over = state["over"]
        self._due = state["due"]
