"""What the tasks share."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_nas.errors import CheckpointError


class EpochMeans:
    """Means of an epoch's batches, weighted by their sizes, logged once an epoch.

    Sums stay on the device. ``LightningModule.log`` of every batch would give the same numbers, but on small networks
    it takes a tenth of a step.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.samples: dict[str, int] = {}

    def clear(self) -> None:
        """Forget what was added: the start of a training, after one that was interrupted."""
        self.sums.clear()
        self.samples.clear()

    def add(self, values: dict[str, Tensor], samples: int) -> None:
        """Count a batch.

        Args:
            values: Means over the batch by metric, scalars; they are detached.
            samples: Size of the batch.
        """
        for name, value in values.items():
            if name in self.sums:
                self.sums[name].add_(value.detach(), alpha=samples)
            else:
                self.sums[name] = value.detach() * samples
            self.samples[name] = self.samples.get(name, 0) + samples

    def log(self, task: LightningModule) -> None:
        """Log the means over the batches of all processes, and start anew; for ``on_train_epoch_end``."""
        for name, total in self.sums.items():
            samples = self.samples[name]
            # Lightning weights the means of the processes by batch_size
            task.log(name, total / samples, batch_size=samples, sync_dist=True, prog_bar=name.startswith("train/"))
        self.clear()


def output_folder(trainer: Trainer, output_dir: str | None) -> Path:
    """Where a task writes its artifacts: ``output_dir``, by default the folder of this run's logger."""
    return Path(output_dir or trainer.log_dir or trainer.default_root_dir)


def check_state(task: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Compare the names and shapes of a checkpoint's parameters with those of a task.

    Raises:
        CheckpointError: They differ, so that the checkpoint is of a network of another size or form.
    """
    made = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    mine = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    wrong = [name for name in {**mine, **made} if mine.get(name) != made.get(name)]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"The checkpoint is of another network: {len(wrong)} parameters differ, the first is {name} with shape "
            f"{made.get(name)} in the checkpoint and {mine.get(name)} here (None: absent). Use the "
            "configuration that it was made with: cli_config.yaml in its run's folder."
        )
