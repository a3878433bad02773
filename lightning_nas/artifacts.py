"""Files handed from stage to stage: JSON and safetensors, written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_nas import __version__
from lightning_nas.errors import ArtifactError

SCHEMA = 1
"""Version of every JSON artifact that this release writes; it reads this one and older ones."""


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` under a temporary name, then rename, so that a killed run leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_json(path: str | Path, content: dict[str, Any]) -> Path:
    """Write ``content`` with its schema version and the version of this library."""
    whole = {"schema": SCHEMA, "lightning_nas": __version__, **content}
    return write_bytes(path, (json.dumps(whole, indent=2) + "\n").encode())


def read_json(path: str | Path, *, repair: str) -> dict[str, Any]:
    """Read a JSON artifact.

    Args:
        path: The file.
        repair: What makes such a file, for the error message.

    Raises:
        ArtifactError: The file is missing, empty, truncated, not an object, or of a newer schema.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist. {repair}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a complete JSON file ({error}). {repair}") from None
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise ArtifactError(f"{path} has no integer 'schema': not a file of lightning_nas. {repair}")
    if content["schema"] > SCHEMA:
        raise ArtifactError(
            f"{path} has schema {content['schema']}, written by lightning_nas {content.get('lightning_nas')}; "
            f"this is {__version__}, which reads schema {SCHEMA}. Upgrade lightning_nas, or write the file again."
        )
    return content


def write_tensors(path: str | Path, tensors: dict[str, Tensor]) -> Path:
    """Write named tensors as safetensors."""
    from safetensors.torch import save

    return write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def read_tensors(path: str | Path, *, repair: str) -> dict[str, torch.Tensor]:
    """Read named tensors from a safetensors file.

    Args:
        path: The file.
        repair: What makes such a file, for the error message.

    Raises:
        ArtifactError: The file is missing or not a complete safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist. {repair}") from None
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise ArtifactError(f"{path} is not a complete safetensors file ({error}). {repair}") from None
