"""The costs of final networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.cost import CostSource, activation_memory, latency, macs, parameters
from lightning_nas.spaces.artifact import build_space
from lightning_nas.spaces.sized import build_network

if TYPE_CHECKING:  # a report needs no Lightning; the parser of the command line finds the class here, too
    from lightning.pytorch import LightningDataModule

COSTS = ("parameters", "macs", "latency_ms", "memory_mb")
"""Names of the costs of a network."""


class NetworkCosts(CostSource):
    """The costs of the final network of an architecture, measured when they are looked up.

    - ``parameters``: number of parameters
    - ``macs``: multiply-accumulates of one image
    - ``latency_ms``: median milliseconds of a forward pass
    - ``memory_mb``: peak memory of the activations of a forward pass, without the weights, in units of 10^6 bytes

    Each cost of a network is measured once.

    Attributes:
        device: The device that latencies are measured on.
        recorded: Names of the costs that are recorded.
        known: The costs that have been measured, by space and architecture.

    Args:
        channels: Channels of the first cell. The default, with 20 cells, is the evaluation network of DARTS.
        cells: Number of cells, as the space counts them.
        num_classes: Number of classes, where there are no ``data``.
        image_shape: Shape of an image, ``(channels, height, width)``, where there are no ``data``.
        data: Data that the network is for, whose number of classes and image shape are taken.
        recorded: Names of the costs that ``CostEvaluator`` adds to its evaluations. Constraints may name the others,
            too.
        batch_size: Images per forward pass, for latency and memory, at least 1.
        repeats: Forward passes per latency, of which the median is taken, at least 2.

    Raises:
        ConfigError: A number is too small, or a recorded cost is unknown.

    Example:
        ```python
        costs = NetworkCosts(channels=8, cells=2, image_shape=(1, 8, 8))
        small = ConstrainedSpace(NASBench201Space(), costs.costs, {"parameters": 10_000})
        ```
    """

    def __init__(
        self,
        channels: int = 36,
        *,
        cells: int = 20,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        data: "LightningDataModule | None" = None,
        recorded: Sequence[str] = ("parameters", "macs"),
        batch_size: int = 1,
        repeats: int = 30,
    ) -> None:
        at_least(1, channels=channels, cells=cells, num_classes=num_classes, batch_size=batch_size)
        at_least(2, repeats=repeats)
        if min(image_shape) < 1:
            raise ConfigError(f"image_shape is {tuple(image_shape)}; its three numbers must be at least 1.")
        unknown = [name for name in recorded if name not in COSTS]
        if unknown:
            raise ConfigError(f"recorded names {', '.join(unknown)}; the costs are {', '.join(COSTS)}.")
        self.channels = channels
        self.cells = cells
        self.num_classes = num_classes
        self.image_shape = tuple(image_shape)
        self.data = data
        self.recorded = tuple(recorded)
        self.batch_size = batch_size
        self.repeats = repeats
        self.device = torch.device("cpu")
        self.known: dict[str, dict[str, dict[str, float]]] = {}
        self._size: dict[str, Any] | None = None

    @property
    def size(self) -> dict[str, Any]:
        """Arguments of the final network; the data are set up for them once.

        Raises:
            ConfigError: The data do not say their number of classes and the shape of their images.
        """
        if self._size is None:
            of_data: dict[str, Any] = {"num_classes": self.num_classes, "image_shape": self.image_shape}
            if self.data is not None:
                self.data.prepare_data()
                self.data.setup("fit")
                of_data = {name: getattr(self.data, name, None) for name in of_data}
            if None in of_data.values():
                raise ConfigError(
                    f"{type(self.data).__name__} has num_classes {of_data['num_classes']} and image_shape "
                    f"{of_data['image_shape']}; the costs of a network need both. Add these properties."
                )
            self._size = {"channels": self.channels, "cells": self.cells, **of_data}
        return self._size

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """The costs; the network is built when the first one is looked up that is not known yet."""
        key = build_space(architecture.space).key(architecture)
        known = self.known.setdefault(repr(architecture.space), {}).setdefault(key, {})
        # one network for all lookups of this mapping
        network = cache(partial(self._network, architecture))
        return MeasuredOnLookup({name: partial(self._cost, known, name, network) for name in COSTS})

    def of_network(self, network: nn.Module) -> Mapping[str, float]:
        """The costs of any network that takes images of the same shape, measured when they are looked up.

        Args:
            network: The network.
        """
        return MeasuredOnLookup({name: partial(self._measure, name, network) for name in COSTS})

    def _network(self, architecture: Architecture) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return build_network(build_space(architecture.space), architecture, **self.size)

    def _cost(self, known: dict[str, float], name: str, network: Callable[[], nn.Module]) -> float:
        if name not in known:
            known[name] = self._measure(name, network())
        return known[name]

    def _measure(self, name: str, network: nn.Module) -> float:
        shape, batch = self.size["image_shape"], self.batch_size
        measures: dict[str, Callable[[], float]] = {
            "parameters": lambda: parameters(network),
            "macs": lambda: macs(network, shape),
            "memory_mb": lambda: activation_memory(network, shape, batch) / 1e6,
            "latency_ms": lambda: latency(network.to(self.device), shape, batch, self.repeats).median,
        }
        return float(measures[name]())

    def settings(self) -> dict[str, Any]:
        """The arguments that the costs depend on, as JSON values."""
        size = {**self.size, "image_shape": list(self.size["image_shape"])}
        return {**size, "recorded": list(self.recorded), "batch_size": self.batch_size, "repeats": self.repeats}


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
