"""The data of a search by proposals: nothing but time."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lightning_nas.data.loaders import EpochSampler, ResumableLoader, set_epoch
from lightning_nas.errors import ConfigError


class GenerationsDataModule(LightningDataModule):
    """Counts generations: a batch is the number of one, ``(1,)``.

    A search whose evaluator needs images gives them to the evaluator; what a step of the search needs is its turn.

    Args:
        generations: The most that a search takes, at least 1; it ends before when its budget is spent.
    """

    def __init__(self, generations: int = 10_000) -> None:
        super().__init__()
        if generations < 1:
            raise ConfigError(f"generations is {generations}; it must be at least 1.")
        self.generations = generations

    def train_dataloader(self) -> ResumableLoader:
        """One generation a batch, in order."""
        numbers: Any = torch.arange(self.generations)
        sampler = EpochSampler(numbers, 1, 0, shuffle=False, drop_last=True)
        if self.trainer is not None:
            set_epoch(sampler, self.trainer)
        # without a generator of its own, each epoch draws from the global one
        return ResumableLoader(numbers, batch_size=1, sampler=sampler, generator=torch.Generator().manual_seed(0))
