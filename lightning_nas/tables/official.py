"""What the readers of official downloads share."""

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
    """A download, with a progress bar of the bytes that are read.

    Args:
        path: The file.
        what: Is done, for the bar.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as raw, tqdm.wrapattr(raw, "read", total=path.stat().st_size, desc=what) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}). Name the downloaded file.") from None


def check_digest(path: Path, algorithm: str, ends: tuple[str, ...], repair: str) -> None:
    """Compare a download with its published checksum.

    Args:
        path: The file.
        algorithm: Of the checksum, a name that ``hashlib`` knows.
        ends: With one of these the hexadecimal checksum must end; a whole one ends with itself.
        repair: What to do where it does not.

    Raises:
        DataError: It does not, or the file cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with opened(path, algorithm) as file:
        for chunk in iter(partial(file.read, _CHUNK), b""):
            digest.update(chunk)
    found = digest.hexdigest()
    if not found.endswith(ends):
        raise DataError(f"{path} has the {algorithm} {found}; expected {' or '.join(ends)} at its end. {repair}")


def write_table(path: str | Path, arrays: dict[str, Any]) -> Path:
    """Write the npz file of a table, whole or not at all.

    Raises:
        ArtifactError: It cannot be written.
    """
    with replacing(path) as file:
        np.savez(file, **arrays)
    return Path(path)
