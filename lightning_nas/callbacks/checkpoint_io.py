"""Checkpoints that are written whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_nas.files.artifacts import replacing
from lightning_nas.files.checkpoints import read_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint, then renames: a run killed while it saves keeps the checkpoint before.

    What it reads is checked by ``lightning_nas.files.read_checkpoint`` and never executed, whoever names the file.

    Lightning's own writes to the folder of temporary files first, and copies from there if that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; remote paths are left to Lightning.

        Raises:
            ArtifactError: The file cannot be written.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # a full disk, in torch's words
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint to the CPU; remote ones are left to Lightning, without anything but weights.

        Raises:
            CheckpointError: It cannot be read safely, or is not one of ``lightning-nas fit``.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(Path(path))
