"""Standard networks beside the found one: how they are named, fitted and left out."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lightning_nas.errors import ConfigError
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.pipeline.baselines import adapt, describe, fit, known, read_entries

COSTS = NetworkCosts(num_classes=3, image_shape=(1, 8, 8))
BOTH = [{"fit_to": "macs"}, {"fit_to": "parameters"}]


def test_entries_are_fitted_or_given(tmp_path: Path) -> None:
    given = ["ConvNet", {"class_path": "ConvNet", "init_args": {"depth": 1}}]
    found = read_entries("train", [*BOTH, *given], tmp_path)
    assert [each.name for each in found] == ["resnet_macs", "resnet_parameters", "baseline_2", "baseline_3"]
    assert [each.cost for each in found] == ["macs", "parameters", None, None]
    arguments = {"architecture": "a.json", "drop_path": 0.2, "auxiliary_weight": 0.4, "optimizer": "SGD"}
    adapt(arguments, found[2])
    assert arguments == {
        **{"architecture": None, "network": "ConvNet", "optimizer": "SGD"},
        **{"drop_path": 0.0, "auxiliary_weight": 0.0},
    }
    assert read_entries("train", None, tmp_path) == read_entries("train", [], tmp_path) == []


@pytest.mark.parametrize("entry", [3, "", {"fit_to": "latency_ms"}, {"fit_to": "macs", "more": 1}, [], {"name": "a"}])
def test_what_is_no_baseline_is_refused(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.train\.baselines has .*; expected is a list of"):
        read_entries("train", [entry], tmp_path)
    with pytest.raises(ConfigError, match="twice"):
        read_entries("train", [BOTH[0], BOTH[0]], tmp_path)


def test_a_network_is_fitted_within_the_constraints_or_left_out(tmp_path: Path) -> None:
    first, second = read_entries("train", BOTH, tmp_path)
    found = {"macs": 60_000, "parameters": 5000}
    fitted = fit(first, found, COSTS, {"parameters": 2000.0}, [])
    assert known(first).items() >= fitted.items()
    assert fitted["macs"] <= 60_000
    assert fitted["parameters"] <= 2000
    assert fitted["label"] == f"ResNet-8 of width {fitted['size']['width']}, equal MACs"
    other = fit(second, found, COSTS, {"parameters": 2000.0}, [fitted])
    assert other["skipped"] == f"It would be the same network as {fitted['label']}."
    timed = fit(first, found, COSTS, {"latency_ms": 1000.0}, [])
    assert 0 < timed["latency_ms"] < 1000
    nothing = fit(second, {"macs": 5, "parameters": 5}, COSTS, {}, [])
    assert "No ResNet has at most 5 parameters, like the found network" in nothing["skipped"]


def test_a_given_network_must_fit_images_and_classes(tmp_path: Path) -> None:
    (given,) = read_entries("train", [{"class_path": "mine.Linear", "init_args": {"bias": True}}], tmp_path)
    content = describe(given, nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), COSTS)
    assert (content["label"], content["parameters"], content["macs"]) == ("Linear(bias=True)", 195, 192)
    assert "latency_ms" not in content
    for network in (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), nn.Conv2d(3, 3, 3)):
        with pytest.raises(ConfigError, match=r"baseline_0: Linear\(bias=True\) cannot classify images of shape"):
            describe(given, network, COSTS)
