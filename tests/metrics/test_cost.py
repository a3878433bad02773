from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from lightning_nas.metrics.cost import macs, parameters
from lightning_nas.spaces.darts import DARTSSpace
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
    assert not any("forward" in vars(layer) for layer in module.modules())
    assert module(torch.rand(2, 4, 8, 6, dtype=torch.float64)).shape == (2, 3)
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == torch.float64
        assert torch.equal(tensor, before[name])
