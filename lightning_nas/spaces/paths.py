"""Which paths of a supernet a training step takes, and weights that stay as they are where no path went."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.spaces.base import SearchSpace, Supernet

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
        costs: Lowest and highest cost.
        windows: How many, at least 1.
        evaluator: What knows the costs, such as a table; by default they are counted in ordinary networks.
        cost: Which cost of it.
        network: Arguments of ``SearchSpace.network`` for networks whose ``parameters`` are counted: ``num_classes``,
            ``image_shape``, ``channels``, ``cells``. Every architecture is built once, which takes some hundredths of
            a second.

    Raises:
        ConfigError: The range is empty, there is no window, or there is no such cost.
    """

    def __init__(
        self,
        costs: tuple[float, float],
        windows: int = 7,
        evaluator: Evaluator | None = None,
        cost: str = "parameters",
        network: dict[str, Any] | None = None,
    ) -> None:
        if not 0 <= costs[0] < costs[1] or windows < 1:
            raise ConfigError(
                f"costs is {costs} and windows {windows}; expected are two ascending numbers and at least 1."
            )
        if evaluator is None and cost != "parameters":
            raise ConfigError(f"cost is {cost!r}; without an evaluator only 'parameters' are known. Give an evaluator.")
        self.lowest, self.highest = costs
        self.windows = windows
        self.evaluator = evaluator
        self.cost = cost
        self.network = {"num_classes": 10, "image_shape": (3, 32, 32), "channels": 16, "cells": 5, **(network or {})}
        self._known: dict[str, float] = {}

    def _cost(self, space: SearchSpace, architecture: Architecture) -> float:
        key = space.key(architecture)
        if key not in self._known:
            self._known[key] = (
                self._parameters(space, architecture) if self.evaluator is None else self._look_up(architecture)
            )
        return self._known[key]

    def _parameters(self, space: SearchSpace, architecture: Architecture) -> float:
        from lightning_nas.metrics.cost import parameters

        with torch.device("meta"):
            return float(parameters(space.network(architecture, **self.network)))

    def _look_up(self, architecture: Architecture) -> float:
        assert self.evaluator is not None
        costs = self.evaluator.costs(architecture)
        if self.cost not in costs:
            raise ConfigError(
                f"cost is {self.cost!r}; {type(self.evaluator).__name__} knows {sorted(costs)}. Take one of these, or "
                "add it there."
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


class UntouchedWeights:
    """Keeps the weights of operations that no path of a step used exactly as they were: no momentum, no decay.

    Where an operation has parameters of its own, optimizers leave them alone if they have no gradient. Batched
    supernets keep those of many operations in one tensor; an optimizer's step would move the unused parts, too, by
    their momentum and decay. ``keep`` notes these parts and their optimizer state before the step, ``restore`` puts
    them back after it. What has a gradient that is zero throughout counts as unused, as in the published code of SPOS.

    Args:
        network: A supernet.
    """

    def __init__(self, network: nn.Module) -> None:
        parameters = dict(network.named_parameters())
        entries = network.per_edge() if isinstance(network, Supernet) else ()
        own = [entry[1:4] for entry in entries if entry[3] and entry[1] in parameters]
        self.parts = [(parameters[name], full, part) for name, full, part in own]
        shared = {name for name, _, _ in own}
        self.whole = [parameter for name, parameter in parameters.items() if name not in shared]
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._new: list[tuple[Tensor, Sequence[int], tuple[int | slice, ...]]] = []

    def keep(self, optimizer: Optimizer) -> None:
        """Note the unused parts; gradients are there, the step is not yet taken."""
        self._kept, self._new = [], []
        for group in optimizer.param_groups:
            if group.get("fused") and group.get("momentum"):  # such an SGD ends where some have no momentum yet
                for p in group["params"]:
                    optimizer.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        moving = [p for p in self.whole if p.grad is not None]
        if moving:
            used = torch.stack([p.grad.any() for p in moving if p.grad is not None]).tolist()
            for p, on in zip(moving, used, strict=True):
                p.grad = p.grad if on else None
        present = [(p, full, part) for p, full, part in self.parts if p.grad is not None]
        if not present:
            return
        used = torch.stack([p.grad.reshape(full)[part].any() for p, full, part in present]).tolist()  # type: ignore[union-attr]
        for (p, full, part), on in zip(present, used, strict=True):
            if on:
                continue
            held = [p.data, *(v for v in optimizer.state[p].values() if isinstance(v, Tensor) and v.shape == p.shape)]
            self._kept += [(_part(tensor, full, part), _part(tensor, full, part).clone()) for tensor in held]
            if not optimizer.state[p]:
                self._new.append((p, full, part))

    def restore(self, optimizer: Optimizer) -> None:
        """Put them back; state that the step has made for them starts at zero."""
        for place, value in self._kept:
            place.copy_(value)
        for p, full, part in self._new:
            for value in optimizer.state[p].values():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    _part(value, full, part).zero_()
        self._kept, self._new = [], []


def _part(tensor: Tensor, full: Sequence[int], part: tuple[int | slice, ...]) -> Tensor:
    """A view of an operation's own part."""
    return tensor.view(full)[part]
