"""Random numbers of a training step that a resumed run repeats."""

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.data.splits import derived_seed


class StepSeed(Callback):
    """Seeds torch before every training step from the run's seed, the epoch, the batch and the process.

    Dropped paths and the like draw from torch's global generator, whose state Lightning does not keep. So a resumed run
    draws what an uninterrupted one would have drawn.

    Args:
        seed: The run's, by default that of ``seed_everything``, 0 where there was none.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.given = seed
        self.seed = seed or 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the run's seed."""
        if self.given is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # where seed_everything leaves it

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the generators of all devices."""
        torch.manual_seed(derived_seed(self.seed, "step", trainer.current_epoch, batch_idx, trainer.global_rank))
