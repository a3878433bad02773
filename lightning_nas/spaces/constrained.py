"""A search space under constraints on cost."""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.checks import greater_than
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.spaces.base import Features, SearchSpace
from lightning_nas.spaces.graph import Graph

MAX_DRAWS = 10_000
"""Number of draws in a row that may all violate the constraints before sampling gives up."""

LOOKUPS = 500
"""Number of architectures in a row that do not improve on the largest one so far before the search for it ends."""

STEEPNESS = (4, 1000)
"""Powers of a violated constraint's ratio of cost to bound, by which sizes are divided in the search for the largest
architecture; with the second, which is for constraints that are hard to satisfy, the size hardly matters."""

Costs = Callable[[Architecture], Mapping[str, float]]


class ConstrainedSpace(SearchSpace):
    """The architectures of another space that satisfy constraints on cost.

    An architecture belongs to this space if it belongs to the other one and none of its costs exceeds its bound.
    Sampling draws from the other space until an architecture qualifies, so that it is uniform over this space.
    Neighbours that violate a constraint are left out.

    Example:
        ```python
        space = NASBench201Space()
        small = ConstrainedSpace(space, evaluator.costs, {"parameters": 500_000})
        architecture = small.sample(torch.Generator().manual_seed(0))
        ```

    Args:
        space: The space to constrain.
        costs: Function that maps an architecture to its costs by name, such as ``Evaluator.costs``. The mapping may
            compute a cost when it is looked up: only those with a constraint are.
        constraints: Largest allowed value of each cost, greater than 0, by the name of the cost. They are checked in
            this order, and checking stops at the first violation: name cheap costs first.

    Raises:
        ConfigError: A bound is not greater than 0.
    """

    def __init__(self, space: SearchSpace, costs: Costs, constraints: Mapping[str, float]) -> None:
        greater_than(0, **{f"constraints[{name!r}]": bound for name, bound in constraints.items()})
        self.space = space
        self.costs = costs
        self.constraints = dict(constraints)

    def excess(self, architecture: Architecture) -> float:
        """Return the largest ratio of a cost to its bound; at most 1 for the architectures of this space.

        Args:
            architecture: Architecture of the underlying space.

        Raises:
            ConfigError: A constraint names an unknown cost.
        """
        return max(self._ratios(architecture), default=0.0)

    def allows(self, architecture: Architecture) -> bool:
        """Return whether an architecture of the underlying space satisfies all constraints.

        Args:
            architecture: Architecture of the underlying space.

        Raises:
            ConfigError: A constraint names an unknown cost.
        """
        return all(ratio <= 1 for ratio in self._ratios(architecture))

    def _ratios(self, architecture: Architecture) -> Iterator[float]:
        """Ratios of costs to their bounds, each computed when it is asked for."""
        costs = self.costs(architecture)
        unknown = [name for name in self.constraints if name not in costs]
        if unknown:
            raise ConfigError(
                f"constraints name {', '.join(unknown)}, which the evaluator does not know; it knows {sorted(costs)}."
            )
        return (costs[name] / bound for name, bound in self.constraints.items())

    def spec(self) -> SpaceSpec:
        """Identity of the underlying space: constraints do not change what an architecture is."""
        return self.space.spec()

    @property
    def num_values(self) -> tuple[int, ...]:
        """Number of values of every choice in the underlying space."""
        return self.space.num_values

    @property
    def tokens(self) -> tuple[tuple[int, ...], ...]:
        """Groups of choices in the underlying space."""
        return self.space.tokens

    def check(self, architecture: Architecture) -> None:
        """Raise ``ArchitectureError`` unless the architecture is a point of the space and satisfies the constraints."""
        self.space.check(architecture)
        if not self.allows(architecture):
            costs = self.costs(architecture)
            found = {name: costs[name] for name in self.constraints}
            raise ArchitectureError(
                f"{self.space.text(architecture)} has the costs {found}, which exceed the constraints "
                f"{self.constraints}. Relax the constraints or choose another architecture."
            )

    def key(self, architecture: Architecture) -> str:
        """Canonical identity in the underlying space."""
        return self.space.key(architecture)

    def canonical(self, architecture: Architecture) -> Architecture:
        """Canonical form in the underlying space."""
        return self.space.canonical(architecture)

    def listing(self) -> Any:
        """All architectures of the underlying space; see ``SearchSpace.listing``."""
        return self.space.listing()

    def text(self, architecture: Architecture) -> str:
        """Textual form in the underlying space."""
        return self.space.text(architecture)

    def features(self, architecture: Architecture) -> Features:
        """Features in the underlying space."""
        return self.space.features(architecture)

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw uniformly from the architectures that satisfy the constraints.

        Args:
            generator: Source of randomness.

        Raises:
            ConfigError: None of ``MAX_DRAWS`` architectures satisfies them.
        """
        for _ in range(MAX_DRAWS):
            drawn = self.space.sample(generator)
            if self.allows(drawn):
                return drawn
        raise ConfigError(
            f"None of {MAX_DRAWS} random architectures satisfies the constraints {self.constraints}. Relax them."
        )

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Yield the neighbours in the underlying space that satisfy the constraints."""
        return (near for near in self.space.neighbours(architecture) if self.allows(near))

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """Draw a neighbour uniformly; the architecture itself if it has none.

        Args:
            architecture: The architecture to change.
            generator: Source of randomness.
        """
        near = list(self.neighbours(architecture))
        return near[int(torch.randint(len(near), (1,), generator=generator))] if near else architecture

    def parameter_count(self, architecture: Architecture) -> int:
        """Size in the underlying space."""
        return self.space.parameter_count(architecture)

    def largest(self) -> Architecture:
        """Search for the largest connected architecture that satisfies the constraints.

        The size is ``parameter_count`` of the underlying space, whatever the constraints limit. A best-first search
        starts from the largest architecture of the underlying space. It always goes on with the neighbours of the
        architecture whose size is largest in proportion to the violation of the constraints (see ``STEEPNESS``), and
        ends after ``LOOKUPS`` architectures of which none is larger than the best one so far or, while none satisfies
        the constraints, closer to them. Cells without a path from an input to the output are passed over, however large
        they are. The result need not be the largest of all.

        Raises:
            ConfigError: The search ends before an architecture satisfies the constraints.
        """
        looked_up = 0
        for steepness in STEEPNESS:
            best, lookups = self._best_first(steepness)
            if best is not None:
                return best
            looked_up += lookups
        raise ConfigError(
            f"None of {looked_up} architectures, searched from the largest one, satisfies the constraints "
            f"{self.constraints} and has a path from an input to the output. Relax the constraints."
        )

    def _best_first(self, steepness: float) -> tuple[Architecture | None, int]:
        """The largest architecture that a best-first search finds, if any, and how many architectures it looked at."""
        start = self.space.largest()
        least = self.excess(start)
        best, size = (start, self.parameter_count(start)) if least <= 1 else (None, -1)
        seen, queue, last = {self.key(start)}, [(0.0, 0, start)], 0
        while queue and len(seen) - last < LOOKUPS:
            for near in self.space.neighbours(heapq.heappop(queue)[2]):
                key = self.key(near)
                if key in seen or not self.connected(near):
                    continue
                near_size = self.parameter_count(near)
                if near_size <= size:
                    continue
                seen.add(key)
                excess = self.excess(near)
                rank = steepness * math.log(max(1.0, excess)) - math.log(near_size + 1)
                heapq.heappush(queue, (rank, len(seen), near))
                if excess <= 1:
                    best, size = near, near_size
                if excess <= 1 or excess < least:
                    least, last = min(excess, least), len(seen)
        return best, len(seen)

    def climb(self, start: Architecture, value: Callable[[Architecture], float]) -> Architecture:
        """Change one choice after the other, each time to the best neighbour, until no allowed one is better.

        Cells without a path from an input to the output are passed over.

        Args:
            start: Architecture of this space.
            value: What is to become large; it is looked up more often than the costs.

        Returns:
            A local optimum.
        """
        current: Architecture | None = start
        while current is not None:
            start, least = current, value(current)
            better = [(n, v) for n in self.space.neighbours(current) if (v := value(n)) > least]
            better.sort(key=lambda pair: pair[1], reverse=True)
            current = next((n for n, _ in better if self.connected(n) and self.allows(n)), None)
        return start

    def connected(self, architecture: Architecture) -> bool:
        """Return whether every cell has a path from an input to the output.

        Args:
            architecture: Architecture of the underlying space.
        """
        return all(graph.connected for graph in self.space.graphs(architecture))

    def network(self, architecture: Architecture, *args: Any, **options: Any) -> nn.Module:
        """Build the network of an architecture; see the underlying space."""
        return self.space.network(architecture, *args, **options)

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """Return the cells as graphs; see the underlying space."""
        return self.space.graphs(architecture)
