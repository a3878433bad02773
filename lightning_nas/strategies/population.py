"""Evolution of a population by its best members (SPOS, Supernet Shifting)."""

from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.strategies.base import Result, Strategy

TRIES = 100
"""Children in a row that may all be known, before random architectures fill a generation."""


class PopulationEvolution(Strategy):
    """Every generation is made of the best known architectures: some mutated, some crossed, the rest random.

    The first generation is random. Without ``rescore`` a generation has new architectures only, and parents are the
    best of all that is known (SPOS). With it, parents are the best of the last generation and members of the next one,
    so that they are scored anew, and an architecture may come back: what a search needs whose scores move, such as
    those of a supernet that is trained on the way (Supernet Shifting, whose released code keeps parents' old scores).

    A mutation changes a choice as often as a binomial draw over all choices says, at least once. A generation is as
    large as ``ask`` is told.

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420
        2. Zhang, Wang, Qin, Yan: Boosting Order-Preserving and Transferability for Neural Architecture Search: a Joint
           Architecture Refined Search and Fine-tuning Approach, CVPR 2024, https://arxiv.org/abs/2403.11380

    Args:
        parents: Best architectures that children are made of, at least 1 (both papers: 10 of 50).
        mutated: Share of the children that are mutated, from 0 to 1; the others are crossed.
        mutation_probability: Of a choice to change, above 0, at most 1.
        rescore: Whether parents are asked for again.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self, parents: int = 10, mutated: float = 0.5, mutation_probability: float = 0.1, rescore: bool = False
    ) -> None:
        if parents < 1 or not 0 <= mutated <= 1 or not 0 < mutation_probability <= 1:
            raise ConfigError(
                f"parents is {parents}, mutated {mutated} and mutation_probability {mutation_probability}; expected "
                "are at least 1, from 0 to 1, and above 0 to 1."
            )
        self.parents = parents
        self.mutated = mutated
        self.mutation_probability = mutation_probability
        self.rescore = rescore
        self.last: list[str] = []

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.last = []

    def tell(self, results: Sequence[Result]) -> None:
        """Learn; what is told together is a generation. See ``Strategy.tell``."""
        super().tell(results)
        if results:
            self.last = [self.space.key(architecture) for architecture, _ in results]

    def best(self) -> Architecture:
        """The best that is known; with ``rescore`` of the last generation, since older scores no longer hold."""
        if not self.rescore or not self.last:
            return super().best()
        return self.evaluated[max(self.last, key=self.fitness.__getitem__)]

    def ask(self, count: int) -> list[Architecture]:
        """The next generation; see ``Strategy.ask``.

        Raises:
            ConfigError: A generation is no larger than its parents.
        """
        if not self.last:
            return self.sample_unseen(count)
        known = self.last if self.rescore else list(self.evaluated)
        ranked = sorted(dict.fromkeys(known), key=self.fitness.__getitem__, reverse=True)
        parents = [self.evaluated[key] for key in ranked[: self.parents]]
        if self.rescore and count <= len(parents):
            raise ConfigError(
                f"A generation of {count} has no room beside its {len(parents)} parents. Raise generation_size, or the "
                "budget to a multiple of it, or lower parents."
            )
        found = {self.space.key(a): a for a in parents} if self.rescore else {}
        crossed = count - round(self.mutated * (count - len(found)))
        self._fill(found, crossed, parents, self._cross)
        self._fill(found, count, parents, self._mutate)
        return [*found.values(), *self.sample_unseen(count - len(found), list(found.values()))]

    def _fill(self, found: dict[str, Architecture], count: int, parents: list[Architecture], make: Any) -> None:
        """Add children until there are ``count``, or too many in a row are known or there already."""
        failed = 0
        while len(found) < count and failed < TRIES:
            child = make(parents)
            key = self.space.key(child)
            new = key not in found and (self.rescore or key not in self.evaluated)
            failed = 0 if new else failed + 1
            if new:
                found[key] = child

    def _one(self, parents: list[Architecture]) -> Architecture:
        return parents[int(torch.randint(len(parents), (1,), generator=self.generator))]

    def _cross(self, parents: list[Architecture]) -> Architecture:
        return self.space.crossover(self._one(parents), self._one(parents), self.generator)

    def _mutate(self, parents: list[Architecture]) -> Architecture:
        child = self._one(parents)
        draws = torch.rand(len(child.choices), generator=self.generator)
        for _ in range(max(1, int((draws < self.mutation_probability).sum()))):
            child = self.space.mutate(child, self.generator)
        return child

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        places = {key: place for place, key in enumerate(self.evaluated)}
        return {**super().state_dict(), "last": [places[key] for key in self.last]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        keys = list(self.evaluated)
        self.last = [keys[place] for place in state["last"]]
