"""What the networks of architectures cost, beside what another evaluator says of them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from lightning_nas.architecture import Architecture
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.metrics.cost import activation_memory, latency, macs, parameters
from lightning_nas.spaces.artifact import build_space


class _Measured(Mapping[str, float]):
    """Costs that are found out when they are looked up.

    Args:
        found: Finds a cost out, by its name.
    """

    def __init__(self, found: Mapping[str, Callable[[], float]]) -> None:
        self.found = found

    def __getitem__(self, name: str) -> float:
        return self.found[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __contains__(self, name: object) -> bool:
        return name in self.found  # a mapping's own would measure


class CostEvaluator(Evaluator):
    """Adds the costs of the network that is to be used in the end to the evaluations of another evaluator.

    They are known without a query, so that limits of a search hold for them, and stay costs: several objectives, such
    as accuracy and latency, are made of ``Evaluation.objectives`` and ``Evaluation.cost``. A cost of a network is
    measured once, and the search's checkpoints keep the figures, so that a search that goes on compares with the same.
    Where the other evaluator names a cost too, such as the parameters of a smaller network, that of this one holds.

    Costs: ``parameters`` and ``macs`` (of one image), ``latency_ms`` (median milliseconds of a forward pass on the
    search's device), ``memory_mb`` (the most megabytes, of 10^6 bytes, of tensors alive at once in a forward pass,
    weights apart); see ``lightning_nas.metrics.cost``.

    What is evaluated has all of them; of what limits refuse only the costs that have limits are measured, in the order
    of the limits, until one is exceeded: name cheap ones first, latencies last. Nothing else should run while latencies
    are measured: spread the other evaluator, ``CostEvaluator(Parallel(...))``, not this one.

    Attributes:
        evaluator: The other one.

    Args:
        evaluator: What evaluates.
        channels: Channels of the first cell of the network that is to be used.
        cells: Its number of cells, as the space counts them.
        num_classes: Width of its classifier.
        image_shape: ``(channels, height, width)`` of an image.
        with_macs: Whether multiply-accumulates are counted.
        with_latency: Whether latencies are measured.
        with_memory: Whether the memory of a forward pass is counted.
        batch_size: Images of a forward pass, for latency and memory, at least 1.
        repeats: Forward passes that a latency is the median of, at least 2.

    Raises:
        ConfigError: A number is out of its range.
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
        if min(channels, cells, num_classes, batch_size, *image_shape) < 1 or repeats < 2:
            raise ConfigError(
                f"channels, cells, num_classes, batch_size and image_shape are {channels}, {cells}, {num_classes}, "
                f"{batch_size} and {tuple(image_shape)}, and repeats is {repeats}; all must be at least 1, repeats 2."
            )
        self.evaluator = evaluator
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
        self._known: dict[str, dict[str, dict[str, float]]] = {}

    @property
    def version(self) -> int:  # type: ignore[override]  # it is the other one's
        """That of the other evaluator."""
        return self.evaluator.version

    def begin(self, round: int) -> None:
        """That of the other evaluator."""
        self.evaluator.begin(round)

    def prepare_data(self) -> None:
        """That of the other evaluator."""
        self.evaluator.prepare_data()

    def close(self) -> None:
        """That of the other evaluator."""
        self.evaluator.close()

    def to(self, device: torch.device) -> None:
        """Evaluate and measure there; what was measured elsewhere is forgotten."""
        if device != self.device:
            self._known.clear()
        self.device = device
        self.evaluator.to(device)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """Those of the other evaluator and of the network; see the class, and ``SearchSpace.network``.

        The network is built when the first of its costs is looked up that is not known.
        """
        key = build_space(architecture.space).key(architecture)
        known = self._known.setdefault(repr(architecture.space), {}).setdefault(key, {})
        # one network for all that this mapping is asked for
        network = cache(partial(self._network, architecture))
        others = self.evaluator.costs(architecture)
        found: dict[str, Callable[[], float]] = {name: partial(others.__getitem__, name) for name in others}
        found |= {name: partial(self._cost, known, name, network) for name in self._measures}
        return _Measured(found)

    def _network(self, architecture: Architecture) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return build_space(architecture.space).network(architecture, **self.size)

    def _cost(self, known: dict[str, float], name: str, network: Callable[[], nn.Module]) -> float:
        if name not in known:
            known[name] = self._measures[name](network())
        return known[name]

    @property
    def _measures(self) -> dict[str, Callable[[nn.Module], float]]:
        """How every cost is measured, by its name."""
        shape, batch = self.size["image_shape"], self.batch_size
        found: dict[str, Callable[[nn.Module], float]] = {"parameters": lambda network: float(parameters(network))}
        if self.with_macs:
            found["macs"] = lambda network: float(macs(network, shape))
        if self.with_memory:
            found["memory_mb"] = lambda network: activation_memory(network, shape, batch) / 1e6
        if self.with_latency:
            found["latency_ms"] = lambda network: latency(network.to(self.device), shape, batch, self.repeats).median
        return found

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """What the other evaluator finds, with the costs."""
        found = self.evaluator.evaluate(architectures)
        return [
            replace(evaluation, cost={**evaluation.cost, **self.costs(architecture)})
            for architecture, evaluation in zip(architectures, found, strict=True)
        ]

    def _settings(self) -> dict[str, Any]:
        """What the costs depend on, as JSON values."""
        measured = {"macs": self.with_macs, "latency": self.with_latency, "memory": self.with_memory}
        size = {**self.size, "image_shape": list(self.size["image_shape"])}
        return {**size, **measured, "batch_size": self.batch_size, "repeats": self.repeats}

    def state_dict(self) -> dict[str, Any]:
        """The other evaluator's state, and the costs that are known."""
        known = copy.deepcopy(self._known)
        return {"evaluator": self.evaluator.state_dict(), "settings": self._settings(), "known": known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Evaluator.load_state_dict``.

        Raises:
            CheckpointError: The costs are those of other networks.
        """
        if state["settings"] != self._settings():
            raise CheckpointError(
                f"The checkpoint's costs are of {state['settings']}; the configuration asks for {self._settings()}. "
                "Use the same arguments of CostEvaluator, or begin a new search."
            )
        self.evaluator.load_state_dict(state["evaluator"])
        self._known = copy.deepcopy(state["known"])
