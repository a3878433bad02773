"""Evolution of alphas by fitness and novelty (NEvoNAS)."""

from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, greater_than, within
from lightning_nas.errors import ConfigError
from lightning_nas.strategies.alphas import ROUNDS, AlphaEvolution
from lightning_nas.strategies.pareto import ranked

STALE = 10
"""Generations in a row without a new architecture, before a random generation takes their place."""


class NEvoNAS(AlphaEvolution):
    """NSGA-II over alphas with two objectives: fitness, and novelty.

    Novelty is the mean distance to the nearest neighbours in the archive, all individuals of all generations; two
    architectures that share s of n choices are ``1 - s / (2n - s)`` apart. It is measured anew whenever it is decided
    who survives: measured once, in the small archive of its time, that of the first ones would never be reached again.
    Children come from simulated binary crossover, every number with probability 1/2, and polynomial mutation; of two
    drawn the first in the order of survival is a parent. After many generations without anything new a random one
    comes; the search is over where the space has no more.

    References:
        1. Sinha, Chen: Novelty Driven Evolutionary Neural Architecture Search, GECCO 2022,
           https://arxiv.org/abs/2204.00188

    Args:
        population_size: Individuals of a generation, and of those that survive, at least 2.
        neighbours: Nearest neighbours that novelty is measured by, at least 1.
        crossover: Probability of a pair to be crossed, above 0, below 1.
        crossover_eta: The higher, the more like their parents crossed children are; above 1.
        mutation: Probability of a number to mutate, above 0, below 1.
        mutation_eta: The higher, the smaller mutations are; above 1.
        novelty_only: Whether fitness has no say in who survives (the paper's ablation).
        rescore: Whether survivors are asked for again with every generation, which then takes twice the population:
            for scores that move.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        population_size: int = 20,
        neighbours: int = 5,
        crossover: float = 0.7,
        crossover_eta: float = 15.0,
        mutation: float = 0.2,
        mutation_eta: float = 20.0,
        novelty_only: bool = False,
        rescore: bool = False,
    ) -> None:
        at_least(2, population_size=population_size)
        at_least(1, neighbours=neighbours)
        within("(0, 1)", crossover=crossover, mutation=mutation)
        greater_than(1, crossover_eta=crossover_eta, mutation_eta=mutation_eta)
        self.population_size = population_size
        self.neighbours = neighbours
        self.crossover = crossover
        self.crossover_eta = crossover_eta
        self.mutation = mutation
        self.mutation_eta = mutation_eta
        self.novelty_only = novelty_only
        self.rescore = rescore

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self._survivors = self.nobody()
        self._survivor_keys: list[str] = []
        self._places = torch.zeros(0, dtype=torch.long)
        self._archive = torch.zeros(0, len(self.masks), dtype=torch.long)

    @property
    def most_alive(self) -> int:
        """Survivors and the present generation."""
        return 2 * self.population_size

    def alive(self) -> dict[str, Architecture]:
        """Survivors and the present generation; see ``AlphaEvolution.alive``."""
        choices = self.decode(self._survivors).tolist()
        survivors = zip(self._survivor_keys, map(self.space.architecture, choices), strict=True)
        return {**dict(survivors), **super().alive()}

    def breed(self) -> Tensor:
        """Let the best of survivors and generation survive, and cross and mutate them; see ``AlphaEvolution``."""
        if self.generation:
            self._select()
        return self.strangers() if not self.generation or self._stale >= STALE else self._children()

    def most_novel(self) -> Architecture:
        """The architecture with the highest novelty among those that are alive.

        Raises:
            ConfigError: Nothing was asked for yet.
        """
        places, archive = self._alive()
        if not len(places):
            raise ConfigError("Nobody is alive yet, so that nobody is the most novel. Ask for some first.")
        most = places[novelty(archive, places, self.neighbours).argmax()]
        return self.space.architecture(archive[most].tolist())

    def _alive(self) -> tuple[Tensor, Tensor]:
        """Places of survivors and the present generation in an archive, which has this, too; and the archive."""
        archive = torch.cat([self._archive, self.decode(self.members)])
        return torch.cat([self._places, torch.arange(len(self._archive), len(archive))]), archive

    def _select(self) -> None:
        """Survival: the first of the order of NSGA-II."""
        places, archive = self._alive()
        novelties = novelty(archive, places, self.neighbours)
        keys = self._survivor_keys + self.keys
        fitness = torch.tensor([self.fitness[key] for key in keys], dtype=torch.float64)
        values = torch.stack([fitness, novelties], 1)
        order = ranked(values[:, 1:].numpy() if self.novelty_only else values.numpy())[: self.population_size]
        self._survivors = torch.cat([self._survivors, self.members])[order]
        self._survivor_keys = [keys[i] for i in order]
        self._places, self._archive = places[order], archive

    def _children(self) -> Tensor:
        """As many as the population has; fewer where few that are drawn are architectures, strangers where none is."""
        found = self.nobody()
        for _ in range(ROUNDS):
            found = torch.cat([found, self.valid(self._crossed_and_mutated())])
            if len(found) >= self.population_size:
                break
        return found[: self.population_size] if len(found) else self.strangers()

    def _crossed_and_mutated(self) -> Tensor:
        import numpy as np
        from pymoo.core.population import Population
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM

        pairs = -(-self.population_size // 2)
        # survivors are in order: the lower of two places wins a tournament
        parents = torch.randint(len(self._survivors), (pairs, 2, 2), generator=self.generator).amin(2)
        random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=self.generator)))
        upper = self.masks.flatten().double().numpy()
        problem = Problem(n_var=len(upper), xl=np.zeros_like(upper), xu=upper)
        alive = Population.new("X", self._survivors.flatten(1).numpy())
        crossing = SBX(prob=self.crossover, prob_var=0.5, eta=self.crossover_eta)
        children = crossing.do(problem, alive, parents.numpy(), random_state=random)
        mutation = PM(prob=1.0, prob_var=self.mutation, eta=self.mutation_eta)
        mutated = mutation.do(problem, children, random_state=random).get("X")
        return torch.from_numpy(mutated).reshape(-1, *self.masks.shape)

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        survivors = {"survivors": self._survivors, "survivor_keys": list(self._survivor_keys)}
        return {**super().state_dict(), **survivors, "places": self._places, "archive": self._archive}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self._survivors = state["survivors"]
        self._survivor_keys = list(state["survivor_keys"])
        self._places = state["places"]
        self._archive = state["archive"]


def novelty(choices: Tensor, places: Tensor, neighbours: int) -> Tensor:
    """Mean distance of some architectures to their nearest neighbours.

    Two that share s of n choices are ``1 - s / (2n - s)`` apart: one less the Jaccard index of their sets of choices.

    Args:
        choices: Of all individuals, ``(individuals, choices)``.
        places: Which of them are measured; all others are neighbours of each, equal ones too.
        neighbours: How many of the nearest count; all where there are fewer.

    Returns:
        One a place; zero where there is no neighbour.
    """
    numbers = choices.double()
    shared = choices.shape[1] - torch.cdist(numbers[places], numbers, p=0)  # p=0 counts what differs
    distances = 1 - shared / (2 * choices.shape[1] - shared)
    distances[torch.arange(len(places)), places] = torch.inf  # oneself is no neighbour
    nearest = distances.topk(min(neighbours, len(choices) - 1), largest=False).values
    return nearest.mean(1) if nearest.shape[1] else torch.zeros(len(places), dtype=torch.float64)
