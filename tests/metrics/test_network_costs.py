"""Costs of final networks."""

import pytest
from lightning.pytorch import LightningDataModule

from lightning_nas.data.images import DigitsDataModule
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.cost import macs, parameters
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.spaces.nasbench201.space import NASBench201Space

SPACE = NASBench201Space()
CELL = SPACE.architecture([3, 1, 3, 2, 0, 3])


def test_the_network_is_the_one_for_the_data() -> None:
    costs = NetworkCosts(channels=4, cells=1, num_classes=7, data=DigitsDataModule())
    network = SPACE.network(CELL, channels=4, cells=1, num_classes=10, image_shape=(1, 8, 8))
    assert costs.costs(CELL)["parameters"] == parameters(network)
    assert costs.costs(CELL)["macs"] == macs(network, (1, 8, 8))
    assert costs.settings()["image_shape"] == [1, 8, 8]


class NoShape(LightningDataModule):
    num_classes = 3


def test_data_that_do_not_say_their_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"NoShape has num_classes 3 and image_shape None.*Add these properties"):
        NetworkCosts(data=NoShape()).costs(CELL)["parameters"]
