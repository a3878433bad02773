"""Checkpoints that are written whole or not at all."""

from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_nas.artifacts import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint, then renames: a run killed while it saves keeps the checkpoint before.

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
