"""Random numbers of training steps that a resumed run repeats."""

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.data.splits import derived_seed


class StepSeed(Callback):
    """Seeds torch before every training step from the seed of the run, the epoch, the batch and the rank.

    Operations such as drop path draw from torch's global generator, whose state Lightning does not save. With this
    callback, a resumed run draws the same numbers as an uninterrupted one. The command line adds it to every ``fit``.

    Args:
        seed: Seed of the run. By default the seed of ``seed_everything``, or 0 if it was not called.

    Example:
        ```python
        Trainer(callbacks=[StepSeed(3)])
        ```
    """

    def __init__(self, seed: int | None = None) -> None:
        self.given = seed
        self.seed = seed or 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the seed of the run."""
        if self.given is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # where seed_everything stores it

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the generators of all devices."""
        torch.manual_seed(derived_seed(self.seed, "step", trainer.current_epoch, batch_idx, trainer.global_rank))
