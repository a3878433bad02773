"""Files handed from stage to stage: JSON and safetensors, written whole or not at all."""

import contextlib
import json
import os
import reprlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lightning_nas import __version__
from lightning_nas.errors import ArtifactError

SCHEMA = 1
"""Version of every JSON artifact that this release writes; it reads this one and older ones."""

LARGEST_JSON = 16 * 2**20
LARGEST_TENSORS = 4 * 2**30
LARGEST_PICKLE = 8 * 2**20
"""Bytes of the largest files, and of the largest pickle inside a checkpoint, that are read: all that this library
writes is far smaller, and a hostile file must not fill the memory."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when all is written: a killed run leaves the old one or the new one.

    Raises:
        ArtifactError: It cannot be written; what was at ``path`` is still there.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            kept = "What was written there before is unharmed. " if path.is_file() else ""
            raise ArtifactError(
                f"{path} cannot be written ({error.strerror or error}). {kept}Free space or change permissions, or "
                "name another folder; a run goes on from its last checkpoint."
            ) from error
        raise


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` whole or not at all; see ``replacing``."""
    with replacing(path) as file:
        file.write(data)
    return Path(path)


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
    data = _read_bytes(path, LARGEST_JSON, repair)
    try:
        content = json.loads(data.decode())
        json.dumps(content, ensure_ascii=False).encode()  # text that is no Unicode could never be written again
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or a number of too many digits
        raise ArtifactError(f"{path} is not a complete JSON file ({error}). {repair}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema < 1:
        raise ArtifactError(f"{path} has no integer 'schema' from 1 on: not a file of lightning_nas. {repair}")
    if schema > SCHEMA:
        writer = reprlib.repr(content.get("lightning_nas"))
        raise ArtifactError(
            f"{path} has schema {reprlib.repr(schema)}, written by lightning_nas {writer}; this is {__version__}, "
            f"which reads schema {SCHEMA}. Upgrade lightning_nas, or write the file again."
        )
    return dict(content)


def _read_bytes(path: Path, largest: int, repair: str) -> bytes:
    """The content of an ordinary file.

    Raises:
        ArtifactError: There is none, it cannot be read, or it is too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path} is no file. {repair}")  # opening a pipe would wait
        size = path.stat().st_size
        if size > largest:
            raise ArtifactError(f"{path} has {size} bytes; files of its kind have at most {largest}. {repair}")
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist. {repair}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ArtifactError(f"{path} cannot be read ({error}). {repair}") from None


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
    data = _read_bytes(path, LARGEST_TENSORS, repair)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise ArtifactError(f"{path} is not a complete safetensors file ({str(error):.200}). {repair}") from None
