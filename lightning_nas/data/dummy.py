"""Data for tasks that make their own: a counter of steps."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lightning_nas.checks import at_least
from lightning_nas.data.loaders import EpochSampler, ResumableLoader, set_epoch


class DummyDataModule(LightningDataModule):
    """Gives a trainer steps instead of data, for tasks that need none, such as an evolutionary search.

    A batch is the number of the step, int64 ``(1,)``.

    Args:
        steps: Number of steps per epoch, at least 1. The default is more than most tasks take: they end the training
            themselves, for instance when their budget is spent.

    Raises:
        ConfigError: ``steps`` is below 1.

    Example:
        ```yaml
        data:
          class_path: DummyDataModule
          init_args:
            steps: 100
        ```
    """

    def __init__(self, steps: int = 10_000) -> None:
        super().__init__()
        at_least(1, steps=steps)
        self.steps = steps

    def train_dataloader(self) -> ResumableLoader:
        """Return a loader of the numbers ``0, 1, …, steps - 1``."""
        numbers: Any = torch.arange(self.steps)
        sampler = EpochSampler(numbers, 1, 0, shuffle=False, drop_last=True)
        if self.trainer is not None:
            set_epoch(sampler, self.trainer)
        # without its own generator, every epoch would draw from the global one
        return ResumableLoader(numbers, batch_size=1, sampler=sampler, generator=torch.Generator().manual_seed(0))
