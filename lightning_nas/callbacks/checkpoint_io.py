"""Checkpoints that are written completely or not at all, and read without executing their content."""

import warnings
from typing import Any

import torch
from fsspec.core import url_to_fs
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from lightning_nas.files.artifacts import replacing
from lightning_nas.files.checkpoints import is_remote, read_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in the same folder, and then renames it.

    A run that is killed while it saves a checkpoint therefore keeps the previous one. Lightning's own class instead
    writes to the system's temporary folder first, and copies from there if that is on another disk.

    Files of any origin are read by ``lightning_nas.files.checkpoints.read_checkpoint``, which checks them and executes
    nothing in them. Only single files are deleted. ``RunFolder`` makes Lightning use this class unless the user has
    chosen another one.

    Example:
        ```python
        Trainer(plugins=[AtomicCheckpointIO()])
        ```
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; Lightning's own class writes remote ones.

        Raises:
            ArtifactError: The file cannot be written.
        """
        if is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch's error for a full disk
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint to the CPU, from a path or a URL; nothing in it is executed, whatever the arguments are.

        Raises:
            CheckpointError: The file cannot be read safely, or was not written by ``lightning-nas fit``.
        """
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file of a checkpoint. A folder, which Lightning would delete with everything in it, is kept.

        Args:
            path: A path or a URL.
        """
        filesystem, name = url_to_fs(str(path))
        if filesystem.isdir(name):
            warnings.warn(f"{path} is a folder, not the file of a checkpoint, and is therefore kept.", stacklevel=2)
        elif filesystem.exists(name):
            filesystem.rm_file(name)
