"""Costs beside evaluations, and searches within them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, CheckpointError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.costs import CostEvaluator
from lightning_nas.metrics.cost import Latency, activation_memory, macs, parameters
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.tasks.test_evolve import HERE, STRATEGIES, fit

SPACE = NASBench201Space()
CELLS = [SPACE.architecture([i, 3, 3, 1, 2, 0]) for i in range(4)]
SIZE = {"channels": 4, "cells": 1, "num_classes": 5, "image_shape": (3, 8, 8)}
FINAL = {"class_path": "lightning_nas.metrics.network_costs.NetworkCosts", "init_args": SIZE}
FEATURES = torch.ones(2)


class Counted(Evaluator):
    """Has a state, a version, and an own opinion of parameters."""

    def __init__(self) -> None:
        self.version = 3
        self.seen = 0
        self.device = torch.device("cpu")
        self.prepared = False

    def prepare_data(self) -> None:
        self.prepared = True

    def to(self, device: torch.device) -> None:
        self.device = device

    def costs(self, architecture: Architecture) -> dict[str, float]:
        return {"parameters": 1.0, "dollars": 2.0}

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        self.seen += len(architectures)
        return [Evaluation({"accuracy": 0.5}, {"seconds": 9.0, "parameters": 1.0}, FEATURES) for _ in architectures]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The devices of all measurements of latency; the first takes 1 millisecond, the second 2, ..."""
    devices: list[torch.device] = []

    def count(network: torch.nn.Module, shape: Sequence[int], batch_size: int, repeats: int) -> Latency:
        assert (tuple(shape), batch_size, repeats) == ((3, 8, 8), 2, 7)
        devices.append(next(network.parameters()).device)
        return Latency(float(len(devices)), 0.25)

    monkeypatch.setattr("lightning_nas.metrics.network_costs.latency", count)
    return devices


def timed(evaluator: Evaluator) -> CostEvaluator:
    return costed(evaluator, recorded=["parameters", "latency_ms"], batch_size=2, repeats=7)


def costed(evaluator: Evaluator, **options: Any) -> CostEvaluator:
    return CostEvaluator(evaluator, NetworkCosts(**{**SIZE, **options}))


def test_costs_are_those_of_the_network_and_join_what_was_found() -> None:
    costs = costed(Counted(), recorded=["parameters", "macs", "memory_mb"], batch_size=2)
    before = torch.get_rng_state()
    evaluations = costs.evaluate(CELLS)
    assert torch.equal(before, torch.get_rng_state())
    for cell, found in zip(CELLS, evaluations, strict=True):
        network = SPACE.network(cell, **SIZE)
        expected = {
            "parameters": parameters(network),
            "macs": macs(network, (3, 8, 8)),
            "memory_mb": activation_memory(network, (3, 8, 8), 2) / 1e6,
        }
        assert found.cost == {"seconds": 9.0, "dollars": 2.0, **expected}
        known = costs.costs(cell)
        assert {name: known[name] for name in ("dollars", *expected)} == {"dollars": 2.0, **expected}
        assert found.objectives == {"accuracy": 0.5}
        assert found.features is FEATURES
    assert len({costs.costs(cell)["parameters"] for cell in CELLS}) > 1
    (few,) = costed(Counted(), recorded=["parameters"]).evaluate(CELLS[:1])
    assert set(few.cost) == {"parameters", "dollars", "seconds"}


def test_a_network_is_measured_once_in_whatever_form(measured: list[torch.device]) -> None:
    space = DARTSSpace(nodes=2)
    # the pairs of the second node in both orders
    first, same, other = (
        space.architecture([0, 1, 1, 2, *second, 0, 1, 1, 2, 0, 3, 1, 4])
        for second in ([0, 3, 1, 4], [1, 4, 0, 3], [0, 3, 1, 5])
    )
    costs = timed(Counted())
    found = [costs.costs(each)["latency_ms"] for each in (first, same, other, first)]
    assert found == [1.0, 1.0, 2.0, 1.0]
    # the same text means another network in a space of other operations
    names = ("nor_conv_3x3", "none", "skip_connect")
    one, two = (NASBench201Space(each).architecture([0] * 6) for each in (names, names[::-1]))
    assert [costs.costs(each)["latency_ms"] for each in (one, two)] == [3.0, 4.0]


def test_latencies_are_of_the_device_and_kept_by_a_search(measured: list[torch.device]) -> None:
    costs = timed(Counted())
    costs.evaluate(CELLS[:2])
    torch.save(costs.state_dict(), "state.pt")
    state = torch.load("state.pt", weights_only=True)
    again = timed(Counted())
    again.to(torch.device("cpu"))
    again.load_state_dict(state)
    assert again.evaluator.seen == 2  # type: ignore[attr-defined]
    assert [again.costs(cell)["latency_ms"] for cell in CELLS[:3]] == [1.0, 2.0, 3.0]
    assert costs.costs(CELLS[2])["latency_ms"] == 4.0  # what one has measured since is not the other's
    again.to(torch.device("cpu"))
    assert len(measured) == 4
    again.to(torch.device("meta"))
    assert again.evaluator.device.type == "meta"  # type: ignore[attr-defined]
    assert again.costs(CELLS[0])["latency_ms"] == 5.0
    assert [device.type for device in measured] == ["cpu"] * 4 + ["meta"]


def test_only_what_is_asked_for_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str, value: float) -> Callable[..., Any]:
        return lambda network, *rest: calls.append(name) or value  # type: ignore[func-returns-value]

    monkeypatch.setattr("lightning_nas.metrics.network_costs.macs", counted("macs", 7.0))
    monkeypatch.setattr("lightning_nas.metrics.network_costs.activation_memory", counted("memory_mb", 2e6))
    monkeypatch.setattr("lightning_nas.metrics.network_costs.latency", counted("latency_ms", Latency(3.0, 0.0)))
    monkeypatch.setattr(
        "lightning_nas.metrics.network_costs.parameters", lambda network: calls.append("parameters") or 500
    )
    built: list[Architecture] = []
    network = NASBench201Space.network
    monkeypatch.setattr(
        NASBench201Space, "network", lambda self, a, **size: built.append(a) or network(self, a, **size)
    )
    costs = costed(Counted(), recorded=["parameters", "macs", "memory_mb", "latency_ms"])
    cheap = costs.costs(CELLS[0])
    assert set(cheap) == {"parameters", "dollars", "macs", "memory_mb", "latency_ms"}
    assert not calls
    assert not built
    # a limit that is exceeded ends it; one that is not lets the next one be looked at
    space = ConstrainedSpace(SPACE, costs.costs, {"parameters": 400.0, "latency_ms": 5.0})
    assert not any(space.allows(cell) for cell in CELLS)
    assert calls == ["parameters"] * len(CELLS)
    wide = ConstrainedSpace(SPACE, costs.costs, {"parameters": 600.0, "latency_ms": 5.0})
    assert wide.allows(CELLS[0])
    assert calls == ["parameters"] * len(CELLS) + ["latency_ms"]
    with pytest.raises(ArchitectureError, match=r"costs \{'parameters': 500\.0, 'latency_ms': 3\.0\}, which exceed"):
        space.check(CELLS[0])
    calls.clear()
    built.clear()
    (found,) = costs.evaluate(CELLS[1:2])
    assert found.cost["memory_mb"] == 2.0
    assert sorted(calls) == ["latency_ms", "macs", "memory_mb"]
    assert built == CELLS[1:2]


def test_the_rest_is_the_other_evaluators() -> None:
    costs = costed(Counted())
    costs.prepare_data()
    assert costs.evaluator.prepared  # type: ignore[attr-defined]
    assert costs.version == 3


@pytest.mark.parametrize("name", ["random", "evolution", "first"])
def test_a_search_finds_nothing_outside_its_limits(name: str) -> None:
    draws = [SPACE.sample(torch.Generator().manual_seed(i)) for i in range(40)]
    known = costed(Counted())
    limit = sorted(known.costs(draw)["parameters"] for draw in draws)[12]
    evaluator = {
        "class_path": "lightning_nas.evaluation.costs.CostEvaluator",
        "init_args": {"evaluator": {"class_path": f"{HERE}.Known"}, "costs": FINAL},
    }
    task = fit(strategy=STRATEGIES[name], evaluator=evaluator, constraints={"parameters": limit})
    assert len(task.history.results) == 23
    for architecture, evaluation in task.history.results:
        own = parameters(SPACE.network(architecture, **SIZE))
        assert evaluation.cost["parameters"] == own <= limit


@pytest.mark.slow
def test_no_architecture_within_the_limits() -> None:
    edges = [["none"]] * 4 + [["none", "nor_conv_3x3"]] * 2
    space = {
        "class_path": "lightning_nas.spaces.nasbench201.space.NASBench201Space",
        "init_args": {"operations": ["none", "nor_conv_3x3"], "allowed": {"cell": edges}},
    }
    evaluator = {
        "class_path": "lightning_nas.evaluation.costs.CostEvaluator",
        "init_args": {"evaluator": {"class_path": f"{HERE}.Known"}, "costs": FINAL},
    }
    with pytest.raises(ConfigError, match=r"None of 10000 random architectures satisfies the constraints \{'macs': 10"):
        fit(space=space, evaluator=evaluator, constraints={"macs": 10.0})
    with pytest.raises(ConfigError, match=r"it knows \['convolutions', 'latency_ms', 'macs', 'memory_mb',"):
        fit(space=space, evaluator=evaluator, constraints={"dollars": 10.0})


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels is 0"):
        costed(Counted(), channels=0)
    with pytest.raises(ConfigError, match="repeats is 1"):
        costed(Counted(), repeats=1)
    with pytest.raises(ConfigError, match="recorded names watts"):
        costed(Counted(), recorded=["watts"])
    state = costed(Counted()).state_dict()
    for other in ({"cells": 2}, {"recorded": ["latency_ms"]}):
        with pytest.raises(CheckpointError, match=r"the configuration asks for \{'channels': 4"):
            costed(Counted(), **other).load_state_dict(state)
