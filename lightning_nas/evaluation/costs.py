"""Costs of networks, beside the evaluations of another evaluator."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator, is_failure
from lightning_nas.evaluation.wrapper import EvaluatorWrapper
from lightning_nas.metrics.cost import CostSource, activation_memory, latency, macs, parameters
from lightning_nas.spaces.artifact import build_space


class NetworkCosts(CostSource):
    """The costs of the final network of an architecture, measured when they are looked up.

    - ``parameters``: number of parameters
    - ``macs``: multiply-accumulates of one image
    - ``latency_ms``: median milliseconds of a forward pass
    - ``memory_mb``: peak memory of the activations of a forward pass, without the weights, in units of 10^6 bytes

    Each cost of a network is measured once.

    Attributes:
        device: The device that latencies are measured on.
        known: The costs that have been measured, by space and architecture.

    Args:
        channels: Channels of the first cell.
        cells: Number of cells, as the space counts them.
        num_classes: Number of classes.
        image_shape: Shape of an image, ``(channels, height, width)``.
        with_macs: Whether to count multiply-accumulates.
        with_latency: Whether to measure latencies.
        with_memory: Whether to measure the memory of a forward pass.
        batch_size: Images per forward pass, for latency and memory, at least 1.
        repeats: Forward passes per latency, of which the median is taken, at least 2.

    Raises:
        ConfigError: A number is too small.

    Example:
        ```python
        costs = NetworkCosts(channels=8, cells=2, image_shape=(1, 8, 8))
        small = ConstrainedSpace(NASBench201Space(), costs.costs, {"parameters": 10_000})
        ```
    """

    def __init__(
        self,
        channels: int,
        cells: int,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        with_macs: bool = True,
        with_latency: bool = False,
        with_memory: bool = False,
        batch_size: int = 1,
        repeats: int = 30,
    ) -> None:
        at_least(1, channels=channels, cells=cells, num_classes=num_classes, batch_size=batch_size)
        at_least(2, repeats=repeats)
        if min(image_shape) < 1:
            raise ConfigError(f"image_shape is {tuple(image_shape)}; its three numbers must be at least 1.")
        self.size: dict[str, Any] = {
            "channels": channels,
            "cells": cells,
            "num_classes": num_classes,
            "image_shape": tuple(image_shape),
        }
        self.with_macs = with_macs
        self.with_latency = with_latency
        self.with_memory = with_memory
        self.batch_size = batch_size
        self.repeats = repeats
        self.device = torch.device("cpu")
        self.known: dict[str, dict[str, dict[str, float]]] = {}

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """The costs; the network is built when the first one is looked up that is not known yet."""
        key = build_space(architecture.space).key(architecture)
        known = self.known.setdefault(repr(architecture.space), {}).setdefault(key, {})
        # one network for all lookups of this mapping
        network = cache(partial(self._network, architecture))
        return MeasuredOnLookup({name: partial(self._cost, known, name, network) for name in self._measures})

    def _network(self, architecture: Architecture) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return build_space(architecture.space).network(architecture, **self.size)

    def _cost(self, known: dict[str, float], name: str, network: Callable[[], nn.Module]) -> float:
        if name not in known:
            known[name] = self._measures[name](network())
        return known[name]

    @property
    def _measures(self) -> dict[str, Callable[[nn.Module], float]]:
        """How each cost is measured, by its name."""
        shape, batch = self.size["image_shape"], self.batch_size
        found: dict[str, Callable[[nn.Module], float]] = {"parameters": lambda network: float(parameters(network))}
        if self.with_macs:
            found["macs"] = lambda network: float(macs(network, shape))
        if self.with_memory:
            found["memory_mb"] = lambda network: activation_memory(network, shape, batch) / 1e6
        if self.with_latency:
            found["latency_ms"] = lambda network: latency(network.to(self.device), shape, batch, self.repeats).median
        return found

    def settings(self) -> dict[str, Any]:
        """The arguments that the costs depend on, as JSON values."""
        measured = {"macs": self.with_macs, "latency": self.with_latency, "memory": self.with_memory}
        size = {**self.size, "image_shape": list(self.size["image_shape"])}
        return {**size, **measured, "batch_size": self.batch_size, "repeats": self.repeats}


class CostEvaluator(EvaluatorWrapper):
    """Adds the costs of the final network to the evaluations of another evaluator.

    The final network is the one that will be used after the search; it is usually larger than the networks that the
    search trains. Its costs need no query, so that a search can have constraints on them, and trade them off against
    the objective (``costs_to_minimise`` of ``EvolveTask``). Where the wrapped evaluator has a cost of the same name,
    such as the parameters of a smaller network, the cost of the final network replaces it. See ``NetworkCosts`` for the
    costs.

    Checkpoints of the search keep the costs that are known, so that a resumed search compares with the same ones. An
    architecture that is evaluated has all costs. Of an architecture that constraints refuse only the constrained costs
    are measured, in the order of the constraints, up to the first that is exceeded: put cheap ones first and latencies
    last. Nothing else should run while latencies are measured: run the wrapped evaluator in parallel,
    ``CostEvaluator(Parallel(...))``, not this one.

    Attributes:
        evaluator: The wrapped evaluator.
        network_costs: The costs of final networks.

    Args:
        evaluator: The evaluator that measures the objectives.
        channels: Channels of the first cell of the final network. The default, with 20 cells, is the evaluation
            network of DARTS.
        cells: Number of cells of the final network, as its space counts them.
        num_classes: Number of classes of the final network.
        image_shape: Shape of an image, ``(channels, height, width)``.
        with_macs: Whether to count multiply-accumulates.
        with_latency: Whether to measure latencies.
        with_memory: Whether to measure the memory of a forward pass.
        batch_size: Images per forward pass, for latency and memory, at least 1.
        repeats: Forward passes per latency, of which the median is taken, at least 2.

    Raises:
        ConfigError: A number is too small.

    Example:
        ```yaml
        evaluator:
          class_path: CostEvaluator
          init_args:
            evaluator: {class_path: ShortTraining, init_args: {data: ...}}
            channels: 36
            cells: 20
            with_latency: true
        constraints: {parameters: 3.5e6, latency_ms: 20}
        ```
    """

    def __init__(
        self,
        evaluator: Evaluator,
        channels: int = 36,
        cells: int = 20,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        with_macs: bool = True,
        with_latency: bool = False,
        with_memory: bool = False,
        batch_size: int = 1,
        repeats: int = 30,
    ) -> None:
        super().__init__(evaluator)
        self.network_costs = NetworkCosts(
            channels, cells, num_classes, image_shape, with_macs, with_latency, with_memory, batch_size, repeats
        )

    def to(self, device: torch.device) -> None:
        """Evaluate and measure on this device from now on; costs measured on another device are forgotten."""
        if device != self.network_costs.device:
            self.network_costs.known.clear()
        self.network_costs.device = device
        super().to(device)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """The costs of the wrapped evaluator and of the final network, measured when they are looked up."""
        own, others = self.network_costs.costs(architecture), self.evaluator.costs(architecture)
        return MeasuredOnLookup(
            {name: partial(mapping.__getitem__, name) for mapping in (others, own) for name in mapping}
        )

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """The evaluations of the wrapped evaluator, with all costs.

        An evaluation fails if a cost cannot be measured, for example for lack of memory.
        """
        found = self.evaluator.evaluate(architectures)
        return [self._with_costs(*pair) for pair in zip(architectures, found, strict=True)]

    def _with_costs(self, architecture: Architecture, evaluation: Evaluation) -> Evaluation:
        if evaluation.failure is not None:
            return evaluation
        try:
            return replace(evaluation, cost={**evaluation.cost, **self.costs(architecture)})
        except Exception as error:
            if not is_failure(error):
                raise
            return Evaluation.failed(error)

    def state_dict(self) -> dict[str, Any]:
        """The state of the wrapped evaluator, and the costs that are known."""
        known = copy.deepcopy(self.network_costs.known)
        return {"evaluator": self.evaluator.state_dict(), "settings": self.network_costs.settings(), "known": known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            CheckpointError: The costs are those of other networks.
        """
        asked = self.network_costs.settings()
        if state["settings"] != asked:
            raise CheckpointError(
                f"The checkpoint's costs are of {state['settings']}; the configuration asks for {asked}. "
                "Use the same arguments of CostEvaluator, or begin a new search."
            )
        self.evaluator.load_state_dict(state["evaluator"])
        self.network_costs.known = copy.deepcopy(state["known"])


class MeasuredOnLookup(Mapping[str, float]):
    """Costs that are measured when they are looked up.

    Args:
        measures: Measures a cost, by its name.
    """

    def __init__(self, measures: Mapping[str, Callable[[], float]]) -> None:
        self.measures = measures

    def __getitem__(self, name: str) -> float:
        return self.measures[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.measures)

    def __len__(self) -> int:
        return len(self.measures)

    def __contains__(self, name: object) -> bool:
        return name in self.measures  # that of Mapping would measure
