"""What the tasks share."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_nas.errors import CheckpointError


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
