"""Evolution of alphas by fitness and novelty: NEvoNAS (Sinha and Chen, GECCO 2022)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, greater_than, within
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.pareto import ranked
from lightning_nas.strategies.alphas import ROUNDS, AlphaEvolution

STALE = 10
"""Number of generations in a row without a new architecture after which a random generation follows."""


class NEvoNAS(AlphaEvolution):
    """Runs NSGA-II on alphas with two objectives: fitness and novelty.

    The novelty of an individual is its mean distance to its nearest neighbours in the archive of all individuals of all
    generations. Two architectures that agree in s of n choices have the distance ``1 - s / (2n - s)``, one minus the
    Jaccard index of their choices. Novelty is measured anew at every selection: individuals that kept the novelty from
    the small archive of the first generations could never be replaced.

    A parent is the better of two random survivors in the order of NSGA-II. Children come from simulated binary
    crossover, which changes each number of a crossed pair with probability 1/2, and from polynomial mutation, both as
    in pymoo. After many generations without a new architecture a random generation follows; the search ends where the
    space is exhausted.

    References:
        1. Sinha, Chen: Novelty Driven Evolutionary Neural Architecture Search, GECCO 2022,
           https://arxiv.org/abs/2204.00188

    Attributes:
        survivors: Alphas of the individuals that the last selection kept, from best to worst.
        survivor_keys: The keys of their architectures.
        archive: The choices of all individuals up to the last selection, ``(individuals, choices)``.

    Args:
        population_size: Number of children per generation, and of survivors, at least 2.
        neighbours: Number of nearest neighbours that novelty is averaged over, at least 1.
        crossover: Probability that a pair of parents is crossed, in (0, 1).
        crossover_eta: Distribution index of the crossover, greater than 1; the larger, the closer children are to their
            parents.
        mutation: Probability that a number mutates, in (0, 1).
        mutation_eta: Distribution index of the mutation, greater than 1; the larger, the smaller mutations are.
        novelty_only: Whether selection ignores fitness, as in the paper's ablation.
        rescore: Whether survivors are evaluated again with every generation, for scores that change. A generation then
            takes twice ``population_size`` queries.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: NEvoNAS, init_args: {population_size: 20}}
        ```
    """

    def __init__(
        self,
        population_size: int = 20,
        *,
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
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.survivors = self.no_alphas()
        self.survivor_keys: list[str] = []
        self.archive = torch.zeros(0, len(self.masks), dtype=torch.long)
        self._places = torch.zeros(0, dtype=torch.long)  # of the survivors in the archive

    @property
    def max_alive(self) -> int:
        """The largest number of living members: survivors and the current generation."""
        return 2 * self.population_size

    def alive(self) -> dict[str, Architecture]:
        """The architectures of the survivors and of the current generation, by their keys."""
        choices = self.decode(self.survivors).tolist()
        survivors = zip(self.survivor_keys, map(self.space.architecture, choices), strict=True)
        return {**dict(survivors), **super().alive()}

    def tell_failed(self, architectures: Sequence[Architecture]) -> None:
        """Let survivors and generation go on without these architectures; see ``Strategy.tell_failed``."""
        failed = {self.space.key(a) for a in architectures}
        kept = [key not in failed for key in self.survivor_keys]
        self.survivors, self._places = self.survivors[kept], self._places[kept]
        self.survivor_keys = [key for key in self.survivor_keys if key not in failed]
        super().tell_failed(architectures)

    def breed(self) -> Tensor:
        """Select the survivors, then cross and mutate them; see ``AlphaEvolution.breed``."""
        if self.generation:
            self._select()
        return self.unseen_alphas() if not self.generation or self._stale >= STALE else self._children()

    def most_novel(self) -> Architecture:
        """The most novel living architecture.

        Raises:
            ConfigError: Nothing has been asked for yet.
        """
        places, archive = self.living()
        if not len(places):
            raise ConfigError("Nothing has been asked for yet, so no architecture is alive. Ask for some first.")
        most = places[novelty(archive, places, self.neighbours).argmax()]
        return self.space.architecture(archive[most].tolist())

    def living(self) -> tuple[Tensor, Tensor]:
        """The places of the survivors and of the current generation in the archive that includes this generation.

        Returns:
            The places, and the choices of that archive, ``(individuals, choices)``.
        """
        archive = torch.cat([self.archive, self.decode(self.members)])
        return torch.cat([self._places, torch.arange(len(self.archive), len(archive))]), archive

    def _select(self) -> None:
        """Keep the first individuals in the order of NSGA-II."""
        places, archive = self.living()
        novelties = novelty(archive, places, self.neighbours)
        keys = self.survivor_keys + self.keys
        fitness = torch.tensor([self.fitness[key] for key in keys], dtype=torch.float64)
        values = torch.stack([fitness, novelties], 1)
        order = ranked(values[:, 1:].numpy() if self.novelty_only else values.numpy())[: self.population_size]
        self.survivors = torch.cat([self.survivors, self.members])[order]
        self.survivor_keys = [keys[i] for i in order]
        self._places, self.archive = places[order], archive

    def _children(self) -> Tensor:
        """A generation of children; fewer where few of them are architectures, random ones where none is."""
        found = self.no_alphas()
        for _ in range(ROUNDS):
            found = torch.cat([found, self.valid(self._crossed_and_mutated())])
            if len(found) >= self.population_size:
                break
        return found[: self.population_size] if len(found) else self.unseen_alphas()

    def _crossed_and_mutated(self) -> Tensor:
        import numpy as np
        from pymoo.core.population import Population
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM

        pairs = -(-self.population_size // 2)
        # survivors are sorted: the lower of two places wins the tournament
        parents = torch.randint(len(self.survivors), (pairs, 2, 2), generator=self.generator).amin(2)
        random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=self.generator)))
        upper = self.masks.flatten().double().numpy()
        problem = Problem(n_var=len(upper), xl=np.zeros_like(upper), xu=upper)
        alive = Population.new("X", self.survivors.flatten(1).numpy())
        crossing = SBX(prob=self.crossover, prob_var=0.5, eta=self.crossover_eta)
        children = crossing.do(problem, alive, parents.numpy(), random_state=random)
        mutation = PM(prob=1.0, prob_var=self.mutation, eta=self.mutation_eta)
        mutated = mutation.do(problem, children, random_state=random).get("X")
        return torch.from_numpy(mutated).reshape(-1, *self.masks.shape)

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        survivors = {"survivors": self.survivors, "survivor_keys": list(self.survivor_keys)}
        return {**super().state_dict(), **survivors, "places": self._places, "archive": self.archive}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self.survivors = state["survivors"]
        self.survivor_keys = list(state["survivor_keys"])
        self._places = state["places"]
        self.archive = state["archive"]


def novelty(choices: Tensor, places: Tensor, neighbours: int) -> Tensor:
    """Mean distance of individuals to their nearest neighbours.

    Two individuals that agree in s of n choices have the distance ``1 - s / (2n - s)``.

    Args:
        choices: Choices of all individuals, ``(individuals, choices)``.
        places: Indices of the individuals to measure; all others, equal ones too, are their neighbours.
        neighbours: Number of nearest neighbours that count; all where there are fewer.

    Returns:
        The novelty of each place, float64 ``(places,)``; 0 where there is no neighbour.
    """
    numbers = choices.double()
    shared = choices.shape[1] - torch.cdist(numbers[places], numbers, p=0)  # p=0 counts the choices that differ
    distances = 1 - shared / (2 * choices.shape[1] - shared)
    distances[torch.arange(len(places)), places] = torch.inf  # an individual is not its own neighbour
    nearest = distances.topk(min(neighbours, len(choices) - 1), largest=False).values
    return nearest.mean(1) if nearest.shape[1] else torch.zeros(len(places), dtype=torch.float64)
