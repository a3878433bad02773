"""The data of tasks that make their own: nothing but time."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lightning_nas.data.loaders import EpochSampler, ResumableLoader, set_epoch
from lightning_nas.errors import ConfigError


class DummyDataModule(LightningDataModule):
    """Counts steps: a batch is the number of one, ``(1,)``.

    Args:
        steps: In an epoch, at least 1; a task may end before.
    """

    def __init__(self, steps: int = 10_000) -> None:
        super().__init__()
        if steps < 1:
            raise ConfigError(f"steps is {steps}; it must be at least 1.")
        self.steps = steps

    def train_dataloader(self) -> ResumableLoader:
        """The numbers in order."""
        numbers: Any = torch.arange(self.steps)
        sampler = EpochSampler(numbers, 1, 0, shuffle=False, drop_last=True)
        if self.trainer is not None:
            set_epoch(sampler, self.trainer)
        # without a generator of its own, each epoch draws from the global one
        return ResumableLoader(numbers, batch_size=1, sampler=sampler, generator=torch.Generator().manual_seed(0))
