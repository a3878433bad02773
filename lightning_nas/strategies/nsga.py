"""Multi-objective evolution: NSGA-II (Deb et al., 2002)."""

from collections.abc import Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, within
from lightning_nas.errors import CheckpointError, ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.metrics.pareto import ranked
from lightning_nas.strategies.base import DRAWS, Result, Strategy


class FrontStrategy(Strategy):
    """A strategy that searches for a Pareto front of the objective and of costs, not for the best architecture alone.

    Attributes:
        costs: Names of the costs that are minimised besides the objective; set before ``start``.
        paid: These costs of every architecture with a known evaluation, by the keys of ``evaluated``.

    Example:
        ```python
        class RandomFront(FrontStrategy):
            def ask(self, count):
                return self.sample_unseen(count)
        ```
    """

    costs: tuple[str, ...] = ()
    paid: dict[str, list[float]]

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.paid = {}

    def tell(self, results: Sequence[Result]) -> None:
        """Learn evaluations with their costs; see ``Strategy.tell``.

        Raises:
            ConfigError: An evaluation lacks the objective or a cost.
            TrainingError: An objective or a cost is not finite.
        """
        paid = {self.space.key(a): self._paid(a, evaluation) for a, evaluation in results}
        super().tell(results)
        self.paid |= paid

    def _paid(self, architecture: Architecture, evaluation: Evaluation) -> list[float]:
        missing = [name for name in self.costs if name not in evaluation.cost]
        if missing:
            raise ConfigError(
                f"{type(self).__name__} minimises {list(self.costs)}; an evaluation has the costs "
                f"{sorted(evaluation.cost)}, not {missing}. Choose some of these, or add costs with CostEvaluator."
            )
        paid = [float(evaluation.cost[name]) for name in self.costs]
        if not torch.tensor(paid).isfinite().all():
            raise TrainingError(
                f"{self.space.text(architecture)} has {dict(zip(self.costs, paid, strict=True))}; finite numbers were "
                "expected. Exclude such architectures from the space, or fix the evaluator."
            )
        return paid

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        return {**super().state_dict(), "costs": list(self.costs), "paid": list(self.paid.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``.

        Raises:
            CheckpointError: The state is of a search for another objective or for other costs.
        """
        if state["costs"] != list(self.costs):
            raise CheckpointError(
                f"The checkpoint's search minimises the costs {state['costs']}, this one {list(self.costs)}. Use the "
                "configuration that it was made with."
            )
        super().load_state_dict(state)
        self.paid = dict(zip(self.evaluated, map(list, state["paid"]), strict=True))


class NSGA2(FrontStrategy):
    """Multi-objective evolution with survival by non-dominated sorting and crowding distance.

    The first population is random. After every generation the survivors are chosen from the population and the
    generation together: front by front, and within the last front that fits partly, the least crowded first. A parent
    is the better of two random members in the same order. A child takes its choices from two parents or from one, and
    then some of them mutate. A child that has been evaluated before is dropped; where too many children in a row are,
    random architectures fill the generation.

    Departures from the paper: choices have no order, so children come from ``SearchSpace.crossover`` and
    ``SearchSpace.mutate`` instead of operators for real numbers; and a generation is as large as ``count`` of ``ask``,
    not as the population. Without costs this is a search by the objective alone.

    References:
        1. Deb, Pratap, Agarwal, Meyarivan: A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, IEEE
           Transactions on Evolutionary Computation 6(2), 2002, https://doi.org/10.1109/4235.996017

    Args:
        population_size: Number of architectures that survive a generation, at least 2. The first ones are drawn at
            random.
        crossover: Probability that a child has two parents instead of one, in [0, 1].
        mutation: Probability that a choice mutates, in [0, 1].

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: NSGA2, init_args: {population_size: 20}}
        costs_to_minimise: [parameters, latency_ms]
        ```
    """

    def __init__(self, population_size: int = 20, *, crossover: float = 0.5, mutation: float = 0.1) -> None:
        at_least(2, population_size=population_size)
        within("[0, 1]", crossover=crossover, mutation=mutation)
        self.population_size = population_size
        self.crossover = crossover
        self.mutation = mutation
        self.alive: list[str] = []

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self.alive = []

    def tell(self, results: Sequence[Result]) -> None:
        """Learn evaluations, and select the survivors; see ``FrontStrategy.tell``."""
        super().tell(results)
        keys = list(dict.fromkeys([*self.alive, *(self.space.key(architecture) for architecture, _ in results)]))
        if keys:
            order = ranked([[self.fitness[key], *(-cost for cost in self.paid[key])] for key in keys])
            self.alive = [keys[i] for i in order[: self.population_size]]

    def ask(self, count: int) -> list[Architecture]:
        """Propose children of the survivors, or random architectures until the population is full."""
        missing = self.population_size - len(self.alive)
        if missing > 0:
            return self.sample_unseen(min(count, missing))
        children: dict[str, Architecture] = {}
        failed = 0
        while len(children) < count and failed < DRAWS:
            child = self.draw_child()
            key = self.space.key(child)
            new = not self.seen(child) and key not in children
            failed = 0 if new else failed + 1
            if new:
                children[key] = child
        found = list(children.values())
        return [*found, *self.sample_unseen(count - len(found), found)]

    def draw_child(self) -> Architecture:
        """A random child of the population."""
        child = self.draw_parent()
        draws = torch.rand(1 + len(child.choices), generator=self.generator)
        if draws[0] < self.crossover:
            child = self.space.crossover(child, self.draw_parent(), self.generator)
        for _ in range(int((draws[1:] < self.mutation).sum())):
            child = self.space.mutate(child, self.generator)
        return child

    def draw_parent(self) -> Architecture:
        """The better of two random members of the population."""
        # survivors are sorted from best to worst
        place = int(torch.randint(len(self.alive), (2,), generator=self.generator).min())
        return self.evaluated[self.alive[place]]

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        places = {key: place for place, key in enumerate(self.evaluated)}
        return {**super().state_dict(), "alive": [places[key] for key in self.alive]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``FrontStrategy.load_state_dict``."""
        super().load_state_dict(state)
        keys = list(self.evaluated)
        self.alive = [keys[place] for place in state["alive"]]
