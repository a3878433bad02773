"""A space under limits of cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.spaces.base import Graph, SearchSpace

DRAWS = 10_000
"""Draws in a row that may all cost too much, before a limit counts as one that nothing meets."""

Costs = Callable[[Architecture], Mapping[str, float]]


class ConstrainedSpace(SearchSpace):
    """The architectures of another space that cost no more than is allowed.

    Args:
        space: The other space.
        costs: What an architecture costs, by name, such as ``Evaluator.costs``; only costs with limits are looked up.
        limits: The most that it may cost, by name, in the order in which they are looked at.
    """

    def __init__(self, space: SearchSpace, costs: Costs, limits: Mapping[str, float]) -> None:
        self.space = space
        self.costs = costs
        self.limits = dict(limits)

    def excess(self, architecture: Architecture) -> float:
        """The largest ratio of a cost to its limit; at most 1 for the architectures of this space.

        Raises:
            ConfigError: There is no such cost, or a limit is not above 0.
        """
        return max(self._shares(architecture), default=0.0)

    def allows(self, architecture: Architecture) -> bool:
        """Whether an architecture of the other space is in this one; it is not asked beyond the first limit exceeded.

        Raises:
            ConfigError: There is no such cost, or a limit is not above 0.
        """
        return all(share <= 1 for share in self._shares(architecture))

    def _shares(self, architecture: Architecture) -> Iterator[float]:
        """Ratios of costs to their limits, each found out when it is asked for."""
        costs = self.costs(architecture)
        wrong = {name: value for name, value in self.limits.items() if name not in costs or not value > 0}
        if wrong:
            raise ConfigError(f"Limits {wrong} were given; there are the costs {sorted(costs)}, limits are above 0.")
        return (costs[name] / limit for name, limit in self.limits.items())

    def spec(self) -> SpaceSpec:
        """That of the other space: a limit does not change what an architecture is."""
        return self.space.spec()

    @property
    def alphabet(self) -> tuple[int, ...]:
        """That of the other space."""
        return self.space.alphabet

    def check(self, architecture: Architecture) -> None:
        """Raise ``ArchitectureError`` unless the architecture is a point of the other space within the limits."""
        self.space.check(architecture)
        if not self.allows(architecture):
            costs = self.costs(architecture)
            raise ArchitectureError(
                f"{self.space.text(architecture)} costs { ({name: costs[name] for name in self.limits}) }, more than "
                f"{self.limits}. Raise the limits, or take another architecture."
            )

    def key(self, architecture: Architecture) -> str:
        """That of the other space."""
        return self.space.key(architecture)

    def text(self, architecture: Architecture) -> str:
        """That of the other space."""
        return self.space.text(architecture)

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw from the other space until an architecture is within the limits.

        Raises:
            ConfigError: None of many is.
        """
        for _ in range(DRAWS):
            drawn = self.space.sample(generator)
            if self.allows(drawn):
                return drawn
        raise ConfigError(f"None of {DRAWS} random architectures is within the limits {self.limits}. Raise them.")

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Those of the other space that are within the limits."""
        return (near for near in self.space.neighbours(architecture) if self.allows(near))

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """A uniformly drawn neighbour; the architecture itself where it has none."""
        near = list(self.neighbours(architecture))
        return near[int(torch.randint(len(near), (1,), generator=generator))] if near else architecture

    def largest(self) -> Architecture:
        """From the largest of the other space, the neighbour nearest to the limits again and again, until within.

        Raises:
            ConfigError: That ends above a limit.
        """
        current = self.space.largest()
        while (excess := self.excess(current)) > 1:
            nearest = min(self.space.neighbours(current), key=self.excess)
            if self.excess(nearest) >= excess:
                raise ConfigError(
                    f"No architecture near {self.space.text(current)} is nearer to the limits {self.limits}. Raise "
                    "them, or start elsewhere."
                )
            current = nearest
        return current

    def network(self, architecture: Architecture, *, image_shape: Sequence[int], **options: Any) -> nn.Module:
        """That of the other space."""
        return self.space.network(architecture, image_shape=image_shape, **options)

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """Those of the other space."""
        return self.space.graphs(architecture)
