"""Samplers of paths: which architectures a training step of a supernet takes."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.metrics.cost import CostSource, parameters
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.sized import build_network

TRIES = 500
"""Number of draws until an architecture of some cost is given up, as in the published code."""


class PathSampler(ABC):
    """Base class of path samplers: they draw the architectures whose mean loss a training step minimizes.

    Example:
        ```python
        class Largest(PathSampler):
            def draw(self, space, generator):
                return [space.largest()]
        ```
    """

    @abstractmethod
    def draw(self, space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
        """Draw one or more architectures for one step.

        Args:
            space: Search space of the supernet.
            generator: Generator of the draws.

        Raises:
            ConfigError: The sampler does not work with the space.
        """


class UniformPaths(PathSampler):
    """Draws architectures uniformly from the whole space (SPOS).

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420

    Args:
        paths: Number of architectures per step, at least 1 (the paper: 1).

    Raises:
        ConfigError: ``paths`` is below 1.

    Example:
        ```yaml
        paths:
          class_path: UniformPaths
          init_args:
            paths: 2
        ```
    """

    def __init__(self, paths: int = 1) -> None:
        at_least(1, paths=paths)
        self.paths = paths

    def draw(self, space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
        """Draw ``paths`` architectures; see ``PathSampler.draw``."""
        return [space.sample(generator) for _ in range(self.paths)]


class FairPaths(PathSampler):
    """Draws architectures in which every choice takes each of its values exactly once (strict fairness, FairNAS).

    With k values per choice these are k architectures per step, so that all operations get the same number of updates.

    References:
        1. Chu, Zhang, Xu: FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search, ICCV
           2021, https://arxiv.org/abs/1907.01845

    Example:
        ```yaml
        paths:
          class_path: FairPaths
        ```
    """

    def draw(self, space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
        """Draw as many architectures as a choice has values; see ``PathSampler.draw``.

        Raises:
            ConfigError: Choices have different numbers of values, or not all of their combinations are architectures.
        """
        some = space.sample(generator)
        values = [{choice} for choice in some.choices]
        for near in space.neighbours(some):
            for place, choice in zip(values, near.choices, strict=True):
                place.add(choice)
        counts = {len(place) for place in values}
        if len(counts) != 1:
            raise ConfigError(
                f"Choices have {sorted(counts)} values; FairPaths needs the same number everywhere. Use UniformPaths."
            )
        (count,) = counts
        columns = [[sorted(place)[i] for i in torch.randperm(count, generator=generator).tolist()] for place in values]
        try:
            return [space.architecture(choices) for choices in zip(*columns, strict=True)]
        except ArchitectureError as error:
            raise ConfigError(
                f"Not all combinations of choices are architectures of {type(space).__name__} ({error}). Use "
                "UniformPaths."
            ) from None


class SandwichPaths(PathSampler):
    """Draws the largest architecture, a small one, and those of another sampler (the sandwich rule).

    The largest architecture and the smallest bound what the shared weights have to do, so that training both in every
    step helps all architectures in between. In spaces of cells many architectures are equally small, and some are not
    even connected; the small one is therefore the one with the fewest parameters among some uniform draws, which is
    another one in every step. The paper trains widths of one network, teaches the others by the outputs of the largest
    one, and has one smallest architecture; here all learn from the labels.

    References:
        1. Yu, Huang: Universally Slimmable Networks and Improved Training Techniques, ICCV 2019,
           https://arxiv.org/abs/1903.05134

    Args:
        paths: Sampler of the other architectures; uniform ones if null, as in the paper.
        others: How often ``paths`` draws in a step, at least 0 (the paper: 2).
        draws: Number of uniform draws of which the smallest is taken, at least 1. Among 20, it is with a probability of
            88 % one of the smallest tenth.

    Raises:
        ConfigError: A number is too small.

    Example:
        ```yaml
        paths: {class_path: SandwichPaths}
        ```
    """

    def __init__(self, paths: PathSampler | None = None, *, others: int = 2, draws: int = 20) -> None:
        at_least(0, others=others)
        at_least(1, draws=draws)
        self.paths = paths or UniformPaths()
        self.others = others
        self.draws = draws
        self._sizes: dict[str, int] = {}

    def draw(self, space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
        """Draw the largest architecture, a small one, and those of ``paths``; see ``PathSampler.draw``."""
        drawn = [space.sample(generator) for _ in range(self.draws)]
        small = min(drawn, key=lambda architecture: self._size(space, architecture))
        others = [each for _ in range(self.others) for each in self.paths.draw(space, generator)]
        return [space.largest(), small, *others]

    def _size(self, space: SearchSpace, architecture: Architecture) -> int:
        """The number of parameters of an architecture, which is counted once."""
        key = space.key(architecture)
        if key not in self._sizes:
            self._sizes[key] = space.parameter_count(architecture)
        return self._sizes[key]


class CostWindow(PathSampler):
    """Draws an architecture whose cost lies in a random window, so that all costs are trained alike (SPOS).

    Uniformly drawn architectures mostly have medium costs; cheap and expensive ones would hardly be trained. Windows of
    equal width divide ``cost_range``. Each step draws a window, then architectures until one lies in it. After 500
    draws the last one is taken, as in the published code.

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420

    Args:
        cost_range: Lowest and highest cost, in the unit of the cost.
        windows: Number of windows, at least 1.
        cost_source: Source of the costs, such as a table. If null, the parameters of ordinary networks are counted.
        cost: Name of the cost in ``cost_source``.
        network_arguments: Arguments of ``SearchSpace.network`` for the networks whose parameters are counted:
            ``num_classes``, ``image_shape``, ``channels``, ``cells``. Each architecture's network is built once, which
            takes some hundredths of a second. The defaults are those of NAS-Bench-201 on CIFAR-10.

    Raises:
        ConfigError: The range is empty, there is no window, or the cost is unknown.

    Example:
        ```yaml
        paths:
          class_path: CostWindow
          init_args:
            cost_range: [73306, 1531546]
        ```
    """

    def __init__(
        self,
        cost_range: tuple[float, float],
        *,
        windows: int = 7,
        cost_source: CostSource | None = None,
        cost: str = "parameters",
        network_arguments: dict[str, Any] | None = None,
    ) -> None:
        at_least(1, windows=windows)
        if not 0 <= cost_range[0] < cost_range[1]:
            raise ConfigError(f"cost_range is {cost_range}; it must be two ascending numbers, the first at least 0.")
        if cost_source is None and cost != "parameters":
            raise ConfigError(
                f"cost is {cost!r}; without a cost_source it must be 'parameters'. Set cost_source to something that "
                "knows the cost."
            )
        self.lowest, self.highest = cost_range
        self.windows = windows
        self.cost_source = cost_source
        self.cost = cost
        sizes = {"num_classes": 10, "image_shape": (3, 32, 32), "channels": 16, "cells": 5}
        self.network_arguments = {**sizes, **(network_arguments or {})}
        self._known: dict[str, float] = {}

    def draw(self, space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
        """Draw one architecture; see ``PathSampler.draw``.

        Raises:
            ConfigError: ``cost_source`` does not know the cost.
        """
        width = (self.highest - self.lowest) / self.windows
        low = self.lowest + width * int(torch.randint(self.windows, (1,), generator=generator))
        for _ in range(TRIES):
            drawn = space.sample(generator)
            if low <= self._cost(space, drawn) <= low + width:
                break
        return [drawn]

    def _cost(self, space: SearchSpace, architecture: Architecture) -> float:
        """The cost of an architecture, which is determined once."""
        key = space.key(architecture)
        if key not in self._known:
            source = self.cost_source
            self._known[key] = (
                self._parameters(space, architecture) if source is None else self._look_up(source, architecture)
            )
        return self._known[key]

    def _parameters(self, space: SearchSpace, architecture: Architecture) -> float:
        with torch.device("meta"):
            return float(parameters(build_network(space, architecture, **self.network_arguments)))

    def _look_up(self, source: CostSource, architecture: Architecture) -> float:
        costs = source.costs(architecture)
        if self.cost not in costs:
            raise ConfigError(
                f"cost is {self.cost!r}; {type(source).__name__} knows {sorted(costs)}. Use one of these, or add the "
                "cost there."
            )
        return costs[self.cost]
