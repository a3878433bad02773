"""The network of the distillation literature."""

import pytest
import torch

from lightning_nas.distill.convnet import ConvNet
from lightning_nas.errors import DataError


def test_convnet_refuses_images_smaller_than_its_poolings() -> None:
    assert ConvNet((3, 32, 32), 10).features(torch.zeros(1, 3, 32, 32)).shape == (1, 2048)
    with pytest.raises(DataError, match="16x16"):
        ConvNet((3, 8, 8), 10, depth=4)
