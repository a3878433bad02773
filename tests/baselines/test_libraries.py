"""Networks of other libraries by their names."""

import sys

import pytest
import torch

from lightning_nas.baselines import TimmNetwork, TorchvisionNetwork
from lightning_nas.errors import ConfigError, MissingDependencyError


def test_a_network_of_torchvision_takes_gray_images() -> None:
    network = TorchvisionNetwork((1, 32, 32), 4, "squeezenet1_1").eval()
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 4)


def test_what_torchvision_cannot_make_is_refused() -> None:
    with pytest.raises(ConfigError, match="torchvision makes no network 'resnet_18'"):
        TorchvisionNetwork((3, 8, 8), 4, "resnet_18")
    with pytest.raises(ConfigError, match="colour"):
        TorchvisionNetwork((3, 8, 8), 4, arguments={"colour": 1})
    with pytest.raises(ConfigError, match="Images have 4 channels"):
        TorchvisionNetwork((4, 8, 8), 4)


def test_timm_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependencyError, match=r"lightning_nas\[timm\]"):
        TimmNetwork((1, 8, 8), 4)


def test_a_network_of_timm() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    assert "resnet10t" in timm.list_models()
    network = TimmNetwork((1, 32, 32), 4).eval()
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    with pytest.raises(ConfigError, match="timm makes no network 'no_such'"):
        TimmNetwork((1, 32, 32), 4, "no_such")
