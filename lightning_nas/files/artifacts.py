"""Artifacts, the files that one stage hands to the next: JSON and safetensors, written completely or not at all.

Nothing is unpickled, and a file of any origin either loads or raises an ``ArtifactError`` that names it.
"""

import contextlib
import json
import os
import re
import reprlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from lightning_nas import __version__
from lightning_nas.errors import ArtifactError

SCHEMA = 1
"""Version of the JSON artifacts that this release writes. It reads this version and older ones."""

LARGEST_JSON = 16 * 2**20
"""Size in bytes of the largest JSON file that is read. This library writes far smaller ones, and a hostile file must
not fill the memory."""

LARGEST_TENSORS = 4 * 2**30
"""Size in bytes of the largest safetensors file that is read, for the same reason."""


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.part")
"""Names of the temporary files that ``replacing`` writes to."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces ``path`` when the block ends without an error.

    A run that is killed on the way leaves either the old file or the new one, never a part of it. The temporary file
    that it may leave beside it is deleted by ``remove_leftovers``. The permissions of the new file follow the umask.

    Args:
        path: The file to replace. Missing folders are made.

    Yields:
        A file that is open for writing bytes.

    Raises:
        ArtifactError: The file cannot be written. What was at ``path`` before is still there.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        with new.open("xb") as file:
            temporary = new
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            kept = "The file that was there before is unharmed. " if path.is_file() else ""
            raise ArtifactError(
                f"{path} cannot be written ({error.strerror or error}). {kept}Free some space, change the permissions "
                "or name another folder, and resume the run from its last checkpoint."
            ) from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of writes into a folder that a kill has interrupted.

    Args:
        folder: The folder, which the caller must have locked: another run may be writing such files.
    """
    for path in folder.glob(".*.part"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` completely or not at all; see ``replacing``.

    Args:
        path: The file to write.
        data: Its content.

    Returns:
        The path.

    Raises:
        ArtifactError: The file cannot be written.
    """
    with replacing(path) as file:
        file.write(data)
    return Path(path)


def write_json(path: str | Path, content: dict[str, Any]) -> Path:
    """Write ``content`` with the schema version and the version of this library.

    Args:
        path: The file to write.
        content: JSON values by key.

    Returns:
        The path.

    Raises:
        ArtifactError: The file cannot be written.
    """
    whole = {"schema": SCHEMA, "lightning_nas": __version__, **content}
    return write_bytes(path, (json.dumps(whole, indent=2) + "\n").encode())


def write_tensors(path: str | Path, tensors: dict[str, Tensor]) -> Path:
    """Write named tensors as safetensors.

    Args:
        path: The file to write.
        tensors: Tensors by name, on any device.

    Returns:
        The path.

    Raises:
        ArtifactError: The file cannot be written.
    """
    from safetensors.torch import save

    return write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def read_json(path: str | Path, *, repair: str) -> dict[str, Any]:
    """Read a JSON artifact.

    Args:
        path: The file to read.
        repair: How to get such a file: one or more sentences for the error message.

    Returns:
        The content, with the versions that ``write_json`` added.

    Raises:
        ArtifactError: The file is missing, empty, truncated, not an object or of a newer schema.
    """
    path = Path(path)
    data = _read_bytes(path, LARGEST_JSON, repair)
    try:
        content = json.loads(data.decode())
        json.dumps(content, ensure_ascii=False).encode()  # text that is not valid Unicode could not be written again
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or a number with too many digits
        raise ArtifactError(f"{path} is not a complete JSON file ({error}). {repair}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema < 1:
        raise ArtifactError(
            f"{path} was not written by lightning_nas: its 'schema' is not a positive integer. {repair}"
        )
    if schema > SCHEMA:
        writer = reprlib.repr(content.get("lightning_nas"))
        raise ArtifactError(
            f"{path} has schema {reprlib.repr(schema)}, written by lightning_nas {writer}; this is {__version__}, "
            f"which reads schema {SCHEMA}. Upgrade lightning_nas, or write the file again."
        )
    return dict(content)


def read_tensors(path: str | Path, *, repair: str) -> dict[str, Tensor]:
    """Read named tensors from a safetensors file.

    Args:
        path: The file to read.
        repair: How to get such a file: one or more sentences for the error message.

    Returns:
        Tensors by name, on the CPU.

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


def _read_bytes(path: Path, largest: int, repair: str) -> bytes:
    """Read a regular file of at most ``largest`` bytes.

    Raises:
        ArtifactError: There is no such file, it cannot be read, or it is too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path} is not a regular file. {repair}")  # opening a pipe would block
        size = path.stat().st_size
        if size > largest:
            raise ArtifactError(f"{path} has {size} bytes; files of its kind have at most {largest}. {repair}")
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist. {repair}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        said = error.strerror if isinstance(error, OSError) else error  # str(error) would name the path again
        raise ArtifactError(f"{str(path):.300} cannot be read ({said}). {repair}") from None
