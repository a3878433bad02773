"""Evolution of alphas: what its strategies have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.strategies.base import Result, Strategy

SAMPLES = 300
"""Random architectures that show which values the choices of a space take."""

ROUNDS = 100
"""How often as many children as a generation has are drawn, before those that are architectures must do."""


class AlphaEvolution(Strategy):
    """A population of alphas: matrices of numbers from 0 to 1, a row a choice, a column a value of it.

    Alphas stand for the architecture of the largest number in every row. Where that is no architecture of the space,
    they are drawn again. Those of a random architecture are uniform but for a swap in every row, which makes the number
    of its value the largest. A generation is asked for in parts; what of it is known costs no query and enters with the
    fitness that it has.

    With ``rescore`` everybody alive is asked for at once in every generation, survivors and what was known before, too,
    and what older generations were told is forgotten: what a search needs whose scores move, such as those of a
    supernet that is trained on the way. The search is over where the budget leaves too little for all of them.

    Attributes:
        masks: Which values are evolved, bool ``(choices, values)``: those that random architectures have.
        members: Alphas of the present generation, ``(n, choices, values)``; zero outside the masks.
        generation: Their architectures.
        keys: Of these, as ``SearchSpace.key`` has them.
    """

    population_size: int
    rescore: bool
    masks: Tensor
    members: Tensor
    generation: list[Architecture]
    keys: list[str]

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        alphabet = self.space.num_values
        self.masks = torch.zeros(len(alphabet), max(alphabet), dtype=torch.bool)
        for _ in range(SAMPLES):
            self.masks[range(len(alphabet)), self.space.sample(self.generator).choices] = True
        self._stale = 0
        self._over = False
        self._enter(self.nobody())
        self._due = False

    @property
    def most_alive(self) -> int:
        """How many individuals are alive at most."""
        return self.population_size

    @abstractmethod
    def breed(self) -> Tensor:
        """Alphas of the next generation; all of the present one is known.

        Returns:
            None where the search is over. After a bounded number of generations without a new architecture, there must
            be one with some, or none.
        """

    def ask(self, count: int) -> list[Architecture]:
        """What is not known of the present generation, or of the next one that has something new.

        Raises:
            ConfigError: With ``rescore``, the first generation has no room for all that may be alive.
        """
        if self.rescore and not self.evaluated and count < self.most_alive:
            raise ConfigError(
                f"A generation of {count} has no room for {self.most_alive} individuals, all of which rescore asks for "
                "at once. Raise generation_size (and the budget, if that is lower), or lower population_size."
            )
        while not self._over:
            if unknown := self._unknown():
                return unknown[:count] if not self.rescore or len(unknown) <= count else []
            self._enter(self.breed())
            self._over = not self.generation
            self._stale = 0 if self._unknown() else self._stale + 1
        return []

    def tell(self, results: Sequence[Result]) -> None:
        """Learn; with ``rescore`` nothing else is known then. See ``Strategy.tell``."""
        if self.rescore and results:
            self.evaluated, self.fitness = {}, {}
        super().tell(results)
        self._due = self.rescore and not self.alive().keys() <= self.evaluated.keys()

    def training_paths(self) -> list[Architecture]:
        """The architectures of the present generation, known ones too: a supernet trains on them in turn."""
        return list(self.generation)

    def alive(self) -> dict[str, Architecture]:
        """Those that take part in the selection of the next generation, by their key."""
        return dict(zip(self.keys, self.generation, strict=True))

    def _unknown(self) -> list[Architecture]:
        if self.rescore:
            return list(self.alive().values()) if self._due else []
        return [architecture for key, architecture in self.alive().items() if key not in self.evaluated]

    def _enter(self, members: Tensor) -> None:
        self.members = members
        self.generation = [self.space.architecture(choices) for choices in self.decode(members).tolist()]
        self.keys = [self.space.key(a) for a in self.generation]
        self._due = bool(self.keys)

    def decode(self, alphas: Tensor) -> Tensor:
        """The choices that alphas ``(n, choices, values)`` stand for, ``(n, choices)``."""
        return alphas.masked_fill(~self.masks, -torch.inf).argmax(2)

    def nobody(self) -> Tensor:
        """No alphas."""
        return self.uniform(0)

    def uniform(self, count: int) -> Tensor:
        """Uniform alphas, which need not be architectures."""
        return torch.rand(count, *self.masks.shape, dtype=torch.float64, generator=self.generator) * self.masks

    def valid(self, alphas: Tensor) -> Tensor:
        """Those alphas that stand for architectures of the space."""
        return alphas[[self._is_architecture(choices) for choices in self.decode(alphas).tolist()]]

    def _is_architecture(self, choices: list[int]) -> bool:
        try:
            self.space.architecture(choices)
        except ArchitectureError:
            return False
        return True

    def strangers(self) -> Tensor:
        """Alphas of random architectures that are not known; none where the space is exhausted."""
        drawn = self.sample_unseen(self.population_size)
        if not drawn:
            return self.nobody()
        chosen = torch.tensor([a.choices for a in drawn]).unsqueeze(2)
        # a rare value may have been missing so far
        self.masks = self.masks.clone()
        self.masks[torch.arange(len(self.masks)), chosen[:, :, 0]] = True
        alphas = self.uniform(len(drawn))
        top = self.decode(alphas).unsqueeze(2)
        largest, other = alphas.gather(2, top), alphas.gather(2, chosen)
        return alphas.scatter(2, top, other).scatter(2, chosen, largest)

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        state = {"masks": self.masks, "members": self.members, "stale": self._stale, "over": self._over}
        return {**super().state_dict(), **state, "due": self._due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self.masks = state["masks"]
        self._enter(state["members"])
        self._stale = state["stale"]
        self._over = state["over"]
        self._due = state["due"]
