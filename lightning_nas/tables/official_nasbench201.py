"""The table of NAS-Bench-201 from its official downloads."""

import re
import zipfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np

from lightning_nas.errors import DataError, NASError
from lightning_nas.files.pickles import check_keys
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables import official_nats as nats
from lightning_nas.tables.official import check_digest, opened, write_table

LENGTHS = {"12": "less", "200": "full"}
"""Epochs of the two kinds of trainings, as the files of NATS-Bench and those of NAS-Bench-201 name them."""

_OLD_PICKLES = 5
"""Number of pickles at the beginning of a file that torch wrote before its version 1.6."""

_DIGITS = re.compile(r"-([0-9a-f]{5,6})\.pth")
_REPAIR = "Download NAS-Bench-201-v1_1-096897.pth, or NATS-tss-v1_0-3ffb9-simple.tar and unpack it, again."


def nasbench201_from_download(path: str | Path, to: str | Path, *, check: bool = True) -> Path:
    """Write the npz file of ``NASBench201Table`` from ``NAS-Bench-201-v1_1-096897.pth`` or NATS-Bench's folder.

    The folder is the unpacked ``NATS-tss-v1_0-3ffb9-simple.tar``, with one file per cell, and needs little memory. The
    other download is a single file that is read as a whole.

    The columns for CIFAR-10 are those below; those for ``cifar100`` and ``imagenet16`` have the same names otherwise.

    - ``cifar10_val_200``, ``cifar10_test_200``, ``cifar10_val_12``, ``cifar10_test_12``: accuracies in percent after
      all 200 or 12 epochs of a training, ``(cells, seeds)``; NaN for seeds that a cell was not trained with
    - ``cifar10_params``: number of parameters
    - ``cifar10_flops``: operations in millions, as published
    - ``cifar10_train_seconds_200``, ``cifar10_train_seconds_12``: mean seconds of the trainings that the validation
      accuracies come from

    Nothing in a download is executed: only containers, numbers and text are read from its pickles. The layout is that
    of the published code that reads these files (nas_201_api and nats_bench).

    References:
        1. Dong, Yang: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020,
           https://arxiv.org/abs/2001.00326
        2. Dong, Liu, Musial, Gabrys: NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size,
           TPAMI 2021, https://arxiv.org/abs/2009.00437

    Args:
        path: Path of the file or of the folder.
        to: Path of the npz file.
        check: Whether the MD5 checksum of the file must end with the digits in its name, as that of the published file
            does. No checksums are published for the files of the folder; bz2 checks each of their blocks in any case.

    Returns:
        The path of the npz file.

    Raises:
        DataError: The download is missing, damaged or a different one, or it lacks a cell or a training.
        ArtifactError: The npz file cannot be written.

    Example:
        ```python
        nasbench201_from_download("NAS-Bench-201-v1_1-096897.pth", "nasbench201.npz")
        ```
    """
    path = Path(path)
    names, cells = nats.folder(path, _REPAIR) if path.is_dir() else _file(path, check)
    space = NASBench201Space()
    try:
        ops = np.array([space.parse(name).choices for name in names], np.uint8)
    except (NASError, AttributeError, TypeError) as error:
        raise DataError(f"{path} lists something that is not a cell ({error!s:.200}). {_REPAIR}") from None
    if len(set(names)) != len(names):
        raise DataError(f"{path} lists a cell twice. {_REPAIR}")
    arrays = {"arch": np.array(names), "ops": ops, "op_names": np.array(space.operations)}
    return write_table(to, {**arrays, **nats.columns(names, cells, LENGTHS, path, _REPAIR)})


def _file(path: Path, check: bool) -> tuple[list[str], Iterator[Any]]:
    """The names of all cells and the results of each, from the single file of NAS-Bench-201."""
    import torch

    if check:
        digits = _DIGITS.search(path.name)
        if digits is None:
            raise DataError(
                f"The name of {path} has no digits of a checksum, such as NAS-Bench-201-v1_1-096897.pth. Give it its "
                "published name."
            )
        check_digest(path, "md5", (digits[1],), _REPAIR)
    with opened(path, "file") as file:
        try:
            _check_archive(file, path.stat().st_size)
            _check_pickles(path)
            with torch.serialization.safe_globals(_numpy_types()):
                content = torch.load(file, map_location="cpu", weights_only=True)
        except nats.UNREADABLE as error:
            raise DataError(f"{path} cannot be read ({type(error).__name__}: {error!s:.300}). {_REPAIR}") from None
    names = nats.listed(content, path, _REPAIR)
    cells = content.get("arch2infos")
    if not isinstance(cells, dict) or set(cells) != set(range(len(names))):
        raise DataError(f"{path} has no results of all of its {len(names)} cells. {_REPAIR}")
    return names, (cells[number] for number in range(len(names)))


def _check_archive(file: IO[bytes], size: int) -> None:
    """Refuse an archive whose parts are larger than it is: torch doesn't pack them.

    Raises:
        ValueError: They are.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > size:
            raise ValueError(f"its parts have {unpacked} bytes when they are unpacked, more than the file")
    file.seek(0)


def _check_pickles(path: Path) -> None:
    """Refuse keys that would take endless time to hash.

    Raises:
        ValueError: There are such keys, or the file has no pickles.
    """
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    if member.filename.lower().endswith(".pkl"):
                        check_keys(BufferedReader(archive.open(member)))  # type: ignore[type-var]  # it has what is used
            return
        file.seek(0)
        for _ in range(_OLD_PICKLES):
            check_keys(file)


def _numpy_types() -> list[Any]:
    """The classes and functions that numbers of numpy are pickled with, by old and by new versions."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    return [np.dtype, *kinds, *((scalar, name) for name in names)]
