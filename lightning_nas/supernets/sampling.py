"""Which paths of a supernet a training step takes, and weights that stay as they are where no path went."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.metrics.cost import CostSource, parameters
from lightning_nas.spaces.base import SearchSpace

TRIES = 500
"""Draws for one window of costs."""


class PathSampler(ABC):
    """Draws the architectures that a supernet is trained on in one step, whose mean loss the step minimises."""

    @abstractmethod
    def draw(self, space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
        """One or more architectures.

        Args:
            space: Of the supernet.
            generator: Of the draws.

        Raises:
            ConfigError: The space does not fit.
        """


class UniformPaths(PathSampler):
    """Architectures drawn uniformly from the whole space (SPOS).

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420

    Args:
        paths: Architectures a step, at least 1 (the paper: 1).

    Raises:
        ConfigError: ``paths`` is below 1.
    """

    def __init__(self, paths: int = 1) -> None:
        if paths < 1:
            raise ConfigError(f"paths is {paths}; a step takes at least 1.")
        self.paths = paths

    def draw(self, space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
        """See ``PathSampler.draw``."""
        return [space.sample(generator) for _ in range(self.paths)]


class FairPaths(PathSampler):
    """As many architectures as a choice has values; among them every choice has every value once (strict fairness).

    References:
        1. Chu, Zhang, Xu: FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search, ICCV
           2021, https://arxiv.org/abs/1907.01845
    """

    def draw(self, space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
        """See ``PathSampler.draw``; the space must have equally many values in every choice, and all combinations."""
        some = space.sample(generator)
        values = [{choice} for choice in some.choices]
        for near in space.neighbours(some):
            for place, choice in zip(values, near.choices, strict=True):
                place.add(choice)
        counts = {len(place) for place in values}
        if len(counts) != 1:
            raise ConfigError(
                f"Choices have {sorted(counts)} values; fair paths need equally many everywhere. Use UniformPaths."
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


class CostWindow(PathSampler):
    """An architecture whose cost lies in a window that is drawn first, so that all costs are trained alike (SPOS).

    Windows of equal width lie between the lowest and the highest cost; after 500 draws outside of the window the last
    one is taken, as in the published code.

    Args:
        cost_range: Lowest and highest cost.
        windows: How many, at least 1.
        cost_source: What knows the costs, such as a table; by default they are counted in ordinary networks.
        cost: Which cost of it.
        network_arguments: Arguments of ``SearchSpace.network`` for networks whose ``parameters`` are counted:
            ``num_classes``, ``image_shape``, ``channels``, ``cells``. Every architecture is built once, which takes
            some hundredths of a second.

    Raises:
        ConfigError: The range is empty, there is no window, or there is no such cost.
    """

    def __init__(
        self,
        cost_range: tuple[float, float],
        windows: int = 7,
        cost_source: CostSource | None = None,
        cost: str = "parameters",
        network_arguments: dict[str, Any] | None = None,
    ) -> None:
        if not 0 <= cost_range[0] < cost_range[1] or windows < 1:
            raise ConfigError(
                f"cost_range is {cost_range} and windows {windows}; expected are two ascending numbers and at least 1."
            )
        if cost_source is None and cost != "parameters":
            raise ConfigError(f"cost is {cost!r}; only 'parameters' are known by themselves. Give a cost_source.")
        self.lowest, self.highest = cost_range
        self.windows = windows
        self.cost_source = cost_source
        self.cost = cost
        sizes = {"num_classes": 10, "image_shape": (3, 32, 32), "channels": 16, "cells": 5}
        self.network_arguments = {**sizes, **(network_arguments or {})}
        self._known: dict[str, float] = {}

    def _cost(self, space: SearchSpace, architecture: Architecture) -> float:
        key = space.key(architecture)
        if key not in self._known:
            self._known[key] = (
                self._parameters(space, architecture) if self.cost_source is None else self._look_up(architecture)
            )
        return self._known[key]

    def _parameters(self, space: SearchSpace, architecture: Architecture) -> float:
        with torch.device("meta"):
            return float(parameters(space.network(architecture, **self.network_arguments)))

    def _look_up(self, architecture: Architecture) -> float:
        assert self.cost_source is not None
        costs = self.cost_source.costs(architecture)
        if self.cost not in costs:
            raise ConfigError(
                f"cost is {self.cost!r}; {type(self.cost_source).__name__} knows {sorted(costs)}. Take one of these, "
                "or add it there."
            )
        return costs[self.cost]

    def draw(self, space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
        """See ``PathSampler.draw``."""
        width = (self.highest - self.lowest) / self.windows
        low = self.lowest + width * int(torch.randint(self.windows, (1,), generator=generator))
        for _ in range(TRIES):
            drawn = space.sample(generator)
            if low <= self._cost(space, drawn) <= low + width:
                break
        return [drawn]
