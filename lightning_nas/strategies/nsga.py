"""Search for a front of worth and costs: NSGA-II (Deb et al., 2002)."""

from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, within
from lightning_nas.errors import CheckpointError, ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.strategies.base import DRAWS, Result, Strategy
from lightning_nas.strategies.pareto import ranked


class FrontStrategy(Strategy):
    """A strategy that looks for good architectures at every price, not for the best one alone.

    Attributes:
        costs: Names of the costs that are minimised beside the objective, set before ``start``.
        paid: These costs of every architecture that is known, in the order of ``told``.
    """

    costs: tuple[str, ...] = ()
    paid: dict[str, list[float]]

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.paid = {}

    def tell(self, results: Sequence[Result]) -> None:
        """Learn; see ``Strategy.tell``.

        Raises:
            ConfigError: An evaluation lacks a cost.
            TrainingError: A cost is not finite.
        """
        paid = {self.space.key(a): self._paid(a, evaluation) for a, evaluation in results}
        super().tell(results)
        self.paid |= paid

    def _paid(self, architecture: Architecture, evaluation: Evaluation) -> list[float]:
        missing = [name for name in self.costs if name not in evaluation.cost]
        if missing:
            raise ConfigError(
                f"{type(self).__name__} minimises {list(self.costs)}; an evaluation has the costs "
                f"{sorted(evaluation.cost)}, not {missing}. Take some of these, or add costs to the evaluator, such as "
                "by lightning_nas.evaluation.costs.CostEvaluator."
            )
        paid = [float(evaluation.cost[name]) for name in self.costs]
        if not torch.tensor(paid).isfinite().all():
            raise TrainingError(
                f"{self.space.text(architecture)} has {dict(zip(self.costs, paid, strict=True))}; finite numbers were "
                "expected. Leave such architectures out of the space, or mend the evaluator."
            )
        return paid

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        return {**super().state_dict(), "costs": list(self.costs), "paid": list(self.paid.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``.

        Raises:
            CheckpointError: It is of a search for other costs, or another objective.
        """
        if state["costs"] != list(self.costs):
            raise CheckpointError(
                f"The checkpoint's search minimises the costs {state['costs']}, this one {list(self.costs)}. Use the "
                "configuration that it was made with."
            )
        super().load_state_dict(state)
        self.paid = dict(zip(self.evaluated, map(list, state["paid"]), strict=True))


class NSGA2(FrontStrategy):
    """Elitist evolution by dominance: children of tournaments' winners, survivors by rank and crowding.

    The population is random at first. Then, of the population and every generation together, those survive that are
    dominated least, and of equals those in the emptiest part of their front. A parent is the better one, in the same
    order, of two that are drawn. A child has the choices of two parents, then some of them mutated. What is known
    costs no query; where too many children in a row are known, random architectures take their place.

    Choices have no order, so that children are made by ``SearchSpace.crossover`` and ``SearchSpace.mutate``, not by the
    paper's operators for numbers. A generation is as large as ``ask`` is told; the paper's is as large as the
    population. Without costs it is a search by the objective alone.

    References:
        1. Deb, Pratap, Agarwal, Meyarivan: A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, IEEE
           Transactions on Evolutionary Computation 6(2), 2002, https://doi.org/10.1109/4235.996017

    Args:
        population_size: Architectures that survive, at least 2; so many are drawn at random first.
        crossover: Probability that a child has two parents, from 0 to 1; else it has one.
        mutation: Probability of a choice to change, from 0 to 1.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(self, population_size: int = 20, crossover: float = 0.5, mutation: float = 0.1) -> None:
        at_least(2, population_size=population_size)
        within("[0, 1]", crossover=crossover, mutation=mutation)
        self.population_size = population_size
        self.crossover = crossover
        self.mutation = mutation
        self.alive: list[str] = []

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.alive = []

    def tell(self, results: Sequence[Result]) -> None:
        """Learn, and let the best survive, the best first; see ``FrontStrategy.tell``."""
        super().tell(results)
        keys = list(dict.fromkeys([*self.alive, *(self.space.key(architecture) for architecture, _ in results)]))
        if keys:
            order = ranked([[self.fitness[key], *(-cost for cost in self.paid[key])] for key in keys])
            self.alive = [keys[i] for i in order[: self.population_size]]

    def ask(self, count: int) -> list[Architecture]:
        """Children of the survivors; random architectures until the population is full, and where children fail."""
        missing = self.population_size - len(self.alive)
        if missing > 0:
            return self.sample_unseen(min(count, missing))
        children: dict[str, Architecture] = {}
        failed = 0
        while len(children) < count and failed < DRAWS:
            child = self._child()
            key = self.space.key(child)
            new = key not in self.evaluated and key not in children
            failed = 0 if new else failed + 1
            if new:
                children[key] = child
        found = list(children.values())
        return [*found, *self.sample_unseen(count - len(found), found)]

    def _child(self) -> Architecture:
        child = self._parent()
        draws = torch.rand(1 + len(child.choices), generator=self.generator)
        if draws[0] < self.crossover:
            child = self.space.crossover(child, self._parent(), self.generator)
        for _ in range(int((draws[1:] < self.mutation).sum())):
            child = self.space.mutate(child, self.generator)
        return child

    def _parent(self) -> Architecture:
        # survivors stand in their order, so that the lower place wins
        return self.evaluated[self.alive[int(torch.randint(len(self.alive), (2,), generator=self.generator).min())]]

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        places = {key: place for place, key in enumerate(self.evaluated)}
        return {**super().state_dict(), "alive": [places[key] for key in self.alive]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``FrontStrategy.load_state_dict``."""
        super().load_state_dict(state)
        keys = list(self.evaluated)
        self.alive = [keys[place] for place in state["alive"]]
