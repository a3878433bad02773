"""A check that all processes search for the same architecture."""

import hashlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.checks import at_least
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.errors import TrainingError


class AlphaSyncCheck(Callback):
    """Compares a hash of the alphas across processes, and stops a search whose processes have drifted apart.

    Nothing synchronises architecture parameters by itself, so a faulty step would leave every process with a search of
    its own: https://github.com/microsoft/nni/issues/5110. Tasks without alphas and single processes are not checked.

    Args:
        every_n_batches: Number of batches between two comparisons, at least 1; every epoch also ends with one.

    Raises:
        ConfigError: ``every_n_batches`` is less than 1.

    Example:
        ```yaml
        trainer:
          callbacks: [{class_path: AlphaSyncCheck, init_args: {every_n_batches: 50}}]
        ```
    """

    def __init__(self, every_n_batches: int = 50) -> None:
        at_least(1, every_n_batches=every_n_batches)
        self.every_n_batches = every_n_batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the hashes if it is time."""
        if (batch_idx + 1) % self.every_n_batches == 0 or trainer.is_last_batch:
            self.compare(trainer, pl_module, batch_idx)

    def compare(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:
        """Compare the hashes now.

        Args:
            trainer: The trainer.
            pl_module: The task that is trained.
            batch_idx: Index of the batch in its epoch, for the message.

        Raises:
            TrainingError: The alphas differ; raised by every process.
        """
        model = getattr(pl_module, "model", None)
        if trainer.world_size == 1 or not isinstance(model, SearchModel):
            return
        mine = hashlib.sha256(b"".join(a.detach().cpu().numpy().tobytes() for a in model.alpha_list)).hexdigest()[:16]
        hashes: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(hashes, mine)
        if len(set(hashes)) > 1:
            raise TrainingError(
                f"The processes search apart: after batch {batch_idx} of epoch {trainer.current_epoch} the hashes of "
                f"their alphas are {hashes}, by rank. A component of yours probably uses gradients of the alphas "
                "without averaging them over processes (BilevelProblem.mean), or draws different random numbers."
            )
