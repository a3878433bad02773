"""What the tasks share."""

from pathlib import Path

from lightning.pytorch import Trainer


def output_folder(trainer: Trainer, output_dir: str | None) -> Path:
    """Where a task writes its artifacts: ``output_dir``, by default the folder of this run's logger."""
    return Path(output_dir or trainer.log_dir or trainer.default_root_dir)


def check_image_shape(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``(channels, height, width)`` as integers."""
    channels, height, width = (int(s) for s in image_shape)
    return channels, height, width
