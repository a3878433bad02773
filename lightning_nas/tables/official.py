"""Reading of official downloads and writing of tables."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from lightning_nas.errors import DataError
from lightning_nas.files.artifacts import replacing

_CHUNK = 2**20


@contextmanager
def opened(path: Path, what: str) -> Iterator[IO[bytes]]:
    """Open a download, with a progress bar of the bytes that are read.

    Args:
        path: Path of the download.
        what: Label of the progress bar.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open("rb") as raw, tqdm.wrapattr(raw, "read", total=path.stat().st_size, desc=what) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}). Name the downloaded file.") from None


def check_digest(path: Path, algorithm: str, ends: tuple[str, ...], repair: str) -> None:
    """Compare the checksum of a download with published ones.

    Args:
        path: Path of the download.
        algorithm: Name of the checksum's algorithm in ``hashlib``.
        ends: The hexadecimal checksum has to end with one of these strings, which may be whole checksums.
        repair: How to get a file with the right checksum, for the error message.

    Raises:
        DataError: The checksum is another one, or the file cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with opened(path, algorithm) as file:
        for chunk in iter(partial(file.read, _CHUNK), b""):
            digest.update(chunk)
    found = digest.hexdigest()
    if not found.endswith(ends):
        raise DataError(f"{path} has the {algorithm} {found}; expected {' or '.join(ends)} at its end. {repair}")


def write_table(path: str | Path, arrays: dict[str, Any]) -> Path:
    """Write the npz file of a table, atomically.

    Args:
        path: Path of the npz file.
        arrays: Its arrays by name.

    Raises:
        ArtifactError: The file cannot be written.
    """
    with replacing(path) as file:
        np.savez(file, **arrays)
    return Path(path)
