"""Batches with equally many images of every class."""

import torch

from lightning_nas.data.class_balanced import ClassBalancedDataModule
from lightning_nas.data.images import DigitsDataModule


def test_batches_are_balanced_and_new_in_every_epoch() -> None:
    loader = ClassBalancedDataModule(DigitsDataModule(), images_per_class=16, steps_per_epoch=3).train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches = list(loader)
        assert len(batches) == 3
        assert all(torch.bincount(y, minlength=10).eq(16).all() for _, y in batches)
        epochs.append(torch.cat([x for x, _ in batches]))
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
