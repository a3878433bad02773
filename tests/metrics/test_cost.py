"""Costs of networks: published figures, and counts by hand."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import mobilenet_v3_small

from lightning_nas.errors import ConfigError
from lightning_nas.metrics import cost
from lightning_nas.metrics.cost import activation_memory, latency, macs, parameters
from lightning_nas.spaces.darts.space import DARTSSpace
from tests.genotypes import DARTS_V1, DARTS_V2, PCDARTS_CIFAR, PCDARTS_IMAGENET, PDARTS

CIFAR = {"num_classes": 10, "image_shape": (3, 32, 32), "channels": 36, "cells": 20}
IMAGENET = {
    "num_classes": 1000,
    "image_shape": (3, 224, 224),
    "channels": 48,
    "cells": 14,
    "imagenet_stem": True,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks as small as these wait for a second thread more than they gain from it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("genotype", "size", "expected_parameters", "expected_macs"),
    [
        (DARTS_V1, CIFAR, 3_169_414, 500_987_520),
        (DARTS_V2, CIFAR, 3_349_342, 528_359_040),
        (PDARTS, CIFAR, 3_433_798, 532_174_464),
        (PCDARTS_CIFAR, CIFAR, 3_634_678, None),
        (DARTS_V2, IMAGENET, 4_718_752, 529_911_552),
        (PDARTS, IMAGENET, 4_944_352, 542_819_328),
        (PCDARTS_IMAGENET, IMAGENET, 5_342_464, 581_627_328),
    ],
)
def test_published_networks(genotype: str, size: dict, expected_parameters: int, expected_macs: int | None) -> None:
    network = DARTSSpace().network(DARTSSpace.parse(genotype), **size)
    assert parameters(network) == expected_parameters
    if expected_macs is not None:
        assert macs(network, size["image_shape"]) == expected_macs


def test_auxiliary_head_costs_parameters_but_no_macs() -> None:
    space, architecture = DARTSSpace(), DARTSSpace.parse(DARTS_V2)
    size = {"num_classes": 10, "image_shape": (3, 32, 32), "channels": 4, "cells": 5}
    plain = space.network(architecture, **size)
    helped = space.network(architecture, **size, auxiliary=True)
    assert parameters(helped) > parameters(plain)
    assert macs(helped, (3, 32, 32)) == macs(plain, (3, 32, 32))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        # called at every pixel
        return self.classifier(y.flatten(2).transpose(1, 2)).mean(1)


def test_groups_strides_and_positions_by_hand() -> None:
    # 4x3 output pixels, 8 channels, 2 inputs a group, 9 taps; then 12 positions through 8x3 weights
    assert macs(Small(), (4, 8, 6)) == 12 * 8 * 2 * 9 + 12 * 8 * 3
    assert parameters(Small()) == 8 * 2 * 9 + 8 + 8 * 3 + 3


def test_every_call_of_a_layer_counts() -> None:
    layer = nn.Conv2d(4, 4, 3, padding="same")
    assert macs(nn.Sequential(layer, nn.ReLU(), layer), (4, 5, 7)) == 2 * 35 * 4 * 4 * 9


def test_module_is_left_as_it_was() -> None:
    module = Small().double().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    macs(module, (4, 8, 6))
    assert module.training
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in module.modules())
    assert module(torch.rand(2, 4, 8, 6, dtype=torch.float64)).shape == (2, 3)
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == torch.float64
        assert torch.equal(tensor, before[name])


def test_operations_in_place_are_counted() -> None:
    """A published figure: 56.5 million for MobileNetV3-small, with hard swish and ReLU in place."""
    assert macs(mobilenet_v3_small(), (3, 224, 224)) == 56_510_400


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["vgg11", "alexnet", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x0_5", "mnasnet0_5", "efficientnet_b0"]
    + ["resnet18", "densenet121", "regnet_x_400mf", "mobilenet_v3_large"],
)
def test_networks_of_torchvision_have_their_published_size(name: str) -> None:
    meta = models.get_model_weights(name).DEFAULT.meta
    network = models.get_model(name)
    assert parameters(network) == meta["num_params"]
    assert macs(network, (3, 224, 224)) / 1e9 == pytest.approx(meta["_ops"], abs=6e-4)  # in 1e9, with three digits
    assert activation_memory(network, (3, 64, 64)) > 3 * 64 * 64 * 4


class Clocked(nn.Module):
    """Takes given seconds by a clock of its own."""

    def __init__(self, seconds: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.seconds = iter(seconds)
        self.now = 0.0

    def __deepcopy__(self, memo: dict) -> "Clocked":
        return self

    def forward(self, x: Tensor) -> None:
        assert not self.training
        assert not torch.is_grad_enabled()
        assert (x.shape, x.dtype) == ((2, 3, 4, 5), torch.float64)
        self.now += next(self.seconds)


def test_latency_is_the_median_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # the passes that count take 1, 2, 3, 4 and 1000 seconds
    module = Clocked([50.0] * cost.WARM_UP + [3.0, 1000.0, 1.0, 4.0, 2.0])
    monkeypatch.setattr("lightning_nas.metrics.cost.time.perf_counter", lambda: module.now)
    found = latency(module, (3, 4, 5), batch_size=2, repeats=5)
    assert found == (3000.0, 2000.0)
    assert next(module.seconds, None) is None


def test_latency_leaves_module_and_generator_as_they_were() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    module[1].eval()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = torch.get_rng_state()
    found = latency(module, (3, 8, 8), repeats=2)
    assert found.median > 0
    assert found.spread >= 0
    assert activation_memory(module, (3, 8, 8)) > 0
    assert [each.training for each in module] == [True, False, True]
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(before, torch.get_rng_state())


class Branches(nn.Module):
    """Keeps its first state until the end, as cells do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.layer(x)
        second = self.layer(first)
        second = self.layer(second)
        return torch.cat([first, second.view(second.shape)], 1)


@pytest.mark.parametrize(
    ("module", "floats"),
    [
        # a pixel: the image's 3, the 8 before and after the ReLU; what follows is less
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), 3 + 8 + 8),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)), 3 + 8 + 4),
        # image, both states, and their concatenation of 6
        (Branches(), 3 + 3 + 3 + 6),
        (nn.Identity(), 3),
    ],
)
def test_activation_memory_by_hand(module: nn.Module, floats: int) -> None:
    for _ in range(2):
        assert activation_memory(module, (3, 6, 10)) == 4 * 60 * floats
    assert activation_memory(module, (3, 6, 10), batch_size=7) == 7 * 4 * 60 * floats
    if not isinstance(module, nn.Identity):  # which has no precision of its own
        assert activation_memory(module.double(), (3, 6, 10)) == 8 * 60 * floats


def test_activation_memory_counts_the_states_of_a_cell() -> None:
    space = DARTSSpace()
    network = space.network(space.largest(), num_classes=10, image_shape=(3, 8, 8), channels=4, cells=3)
    whole = activation_memory(network, (3, 8, 8))
    # at least the output of the first cell, four nodes of 4 channels, beside what it is made of
    assert whole > 2 * 4 * 16 * 64
    assert whole == activation_memory(network, (3, 8, 8))


def test_impossible_measurements_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        latency(Small(), (4, 8, 6), batch_size=0)
    with pytest.raises(ConfigError, match="repeats is 1; it must be at least 2"):
        latency(Small(), (4, 8, 6), repeats=1)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        activation_memory(Small(), (4, 8, 6), batch_size=0)
