"""Schemes of plain images, and controls."""

import pytest
import torch

from lightning_nas.distill.images import class_subset
from lightning_nas.errors import ConfigError


def test_subset_is_balanced_and_of_its_class() -> None:
    labels = torch.randint(5, (200,))
    chosen = class_subset(labels, 4, 5, torch.Generator().manual_seed(0))
    assert torch.equal(labels[chosen], torch.arange(5).repeat_interleave(4))
    assert len(chosen.unique()) == 20
    for wrong in (0, -1, 10_000):
        with pytest.raises(ConfigError, match="images_per_class"):
            class_subset(labels, wrong, 5, torch.Generator())
