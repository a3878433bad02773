"""Evolution of a population by its best members (SPOS, Supernet Shifting)."""

from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, within
from lightning_nas.errors import ConfigError
from lightning_nas.strategies.base import Result, Strategy

TRIES = 100
"""Number of consecutive children that are not new after which random architectures fill a generation."""


class PopulationEvolution(Strategy):
    """Breeds every generation from the best architectures: some mutated, some crossed, the rest random.

    The first generation is random. A mutation changes as many choices as a binomial draw over all choices says, at
    least one. A generation is as large as ``count`` of ``ask``.

    - Without ``rescore``, a generation consists of new architectures, and their parents are the best of all evaluated
      ones, as in SPOS.
    - With ``rescore``, the parents are the best of the previous generation and belong to the next one, so that they are
      scored again; an architecture may return. This suits scores that change, such as those of a supernet that is
      trained during the search, as in Supernet Shifting. The released code of that paper keeps the old scores of
      parents.

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420
        2. Zhang, Wang, Qin, Yan: Boosting Order-Preserving and Transferability for Neural Architecture Search: a Joint
           Architecture Refined Search and Fine-tuning Approach, CVPR 2024, https://arxiv.org/abs/2403.11380

    Args:
        parents: Number of best architectures that children are made from, at least 1. Both papers use 10, with
            generations of 50.
        mutated: Fraction of the children that are mutated, in [0, 1]; the others are crossed.
        mutation_probability: Probability that a choice mutates, in (0, 1].
        rescore: Whether parents are evaluated again with every generation.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: PopulationEvolution, init_args: {parents: 10}}
        generation_size: 50
        ```
    """

    def __init__(
        self, parents: int = 10, *, mutated: float = 0.5, mutation_probability: float = 0.1, rescore: bool = False
    ) -> None:
        at_least(1, parents=parents)
        within("[0, 1]", mutated=mutated)
        within("(0, 1]", mutation_probability=mutation_probability)
        self.parents = parents
        self.mutated = mutated
        self.mutation_probability = mutation_probability
        self.rescore = rescore
        self.last: list[str] = []

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.last = []

    def tell(self, results: Sequence[Result]) -> None:
        """Learn the evaluations of a generation; see ``Strategy.tell``."""
        super().tell(results)
        if results:
            self.last = [self.space.key(architecture) for architecture, _ in results]

    def best(self) -> Architecture:
        """The best architecture; with ``rescore`` that of the last generation, as older scores are out of date."""
        if not self.rescore or not self.last:
            return super().best()
        return self.evaluated[max(self.last, key=self.fitness.__getitem__)]

    def ask(self, count: int) -> list[Architecture]:
        """Propose the next generation; see ``Strategy.ask``.

        Raises:
            ConfigError: With ``rescore``, a generation has no room for children beside its parents.
        """
        if not self.last:
            return self.sample_unseen(count)
        if self.rescore:
            ranked = sorted(dict.fromkeys(self.last), key=self.fitness.__getitem__, reverse=True)
            parents = [self.evaluated[key] for key in ranked[: self.parents]]
        else:
            parents = self.leaders(self.parents)
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
        """Add new children until there are ``count``, or until ``TRIES`` in a row are not new."""
        failed = 0
        while len(found) < count and failed < TRIES:
            child = make(parents)
            key = self.space.key(child)
            known = key in self.evaluated and not self.rescore
            new = key not in found and key not in self.failed and not known
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
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        places = {key: place for place, key in enumerate(self.evaluated)}
        return {**super().state_dict(), "last": [places[key] for key in self.last]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        keys = list(self.evaluated)
        self.last = [keys[place] for place in state["last"]]
