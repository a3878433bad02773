"""The table of NAS-Bench-201 from its official downloads."""

import bz2
import pickle
import re
import reprlib
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from lightning_nas.errors import DataError, NASError
from lightning_nas.files.pickles import check_keys
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.official import check_digest, opened, write_table

LENGTHS = {"12": "less", "200": "full"}
"""Epochs of the two kinds of trainings, as the files of NATS-Bench and those of NAS-Bench-201 name them."""

SETS = {
    "cifar10_val": ("cifar10-valid", "x-valid"),  # trained on half of the training images, scored on the other
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_val": ("cifar100", "x-valid"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16_val": ("ImageNet16-120", "x-valid"),
    "imagenet16_test": ("ImageNet16-120", "x-test"),
}
"""The data set of the training and the images of the score, by the beginning of a column's name, as published."""

_LARGEST = 2**28
"""Size in bytes of the largest unpacked file of a cell that is read."""

_OLD_PICKLES = 5
"""Number of pickles at the beginning of a file that torch wrote before its version 1.6."""

_DIGITS = re.compile(r"-([0-9a-f]{5,6})\.pth")
_REPAIR = "Download NAS-Bench-201-v1_1-096897.pth, or NATS-tss-v1_0-3ffb9-simple.tar and unpack it, again."
_WRONG = (
    zipfile.BadZipFile,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
)
_UNREADABLE = (*_WRONG, pickle.UnpicklingError, struct.error)


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
    names, cells = _folder(path) if path.is_dir() else _file(path, check)
    space = NASBench201Space()
    try:
        ops = np.array([space.parse(name).choices for name in names], np.uint8)
    except (NASError, AttributeError, TypeError) as error:
        raise DataError(f"{path} lists something that is not a cell ({error!s:.200}). {_REPAIR}") from None
    if len(set(names)) != len(names):
        raise DataError(f"{path} lists a cell twice. {_REPAIR}")
    found = []
    for number, (name, cell) in enumerate(zip(tqdm(names, desc="cells"), cells, strict=True)):
        try:
            found.append(_numbers(cell, name))
        except _WRONG as error:
            raise DataError(
                f"Cell {number} of {path} cannot be used ({type(error).__name__}: {error!s:.200}). {_REPAIR}"
            ) from None
    arrays = {"arch": np.array(names), "ops": ops, "op_names": np.array(space.operations)}
    return write_table(to, {**arrays, **_columns(found)})


def _folder(path: Path) -> tuple[list[str], Iterator[Any]]:
    """The names of all cells and the results of each, from the folder of NATS-Bench."""
    names = _listed(_unpacked(path / "meta.pickle.pbz2"), path)
    return names, (_unpacked(path / f"{number:06d}.pickle.pbz2") for number in range(len(names)))


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
        except _UNREADABLE as error:
            raise DataError(f"{path} cannot be read ({type(error).__name__}: {error!s:.300}). {_REPAIR}") from None
    names = _listed(content, path)
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


def _listed(content: Any, path: Path) -> list[str]:
    """The names of all cells in their published order."""
    names = content.get("meta_archs") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names:
        raise DataError(f"{path} has no list 'meta_archs' of its cells, but {reprlib.repr(content)}. {_REPAIR}")
    return names


def _numpy_types() -> list[Any]:
    """The classes and functions that numbers of numpy are pickled with, by old and by new versions."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    return [np.dtype, *kinds, *((scalar, name) for name in names)]


def _unpacked(path: Path) -> Any:
    """The content of a packed pickle of containers, numbers and text."""
    try:
        with bz2.open(path) as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"more than {_LARGEST} bytes")
        check_keys(data)
        return _Plain(BytesIO(data)).load()
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error!s:.300}). {_REPAIR}") from None


class _Type:
    """The ``numpy.dtype`` of a pickled number."""

    def __init__(self, text: str, *_: Any) -> None:
        self.text = text
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _scalar(kind: _Type, data: bytes) -> Any:
    """A number that numpy has pickled."""
    if not isinstance(kind, _Type) or not re.fullmatch("[fiu][248]", kind.text) or kind.order not in "<>=|":
        raise pickle.UnpicklingError("a number is of no known type")
    return np.frombuffer(data, kind.order + kind.text)[0].item()


class _Plain(pickle.Unpickler):
    """Reads containers, numbers and text, and refuses to call anything else."""

    known = {
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "dtype"): _Type,
        ("numpy.core.multiarray", "scalar"): _scalar,
        ("numpy._core.multiarray", "scalar"): _scalar,
    }

    def find_class(self, module: str, name: str) -> Any:
        """One of the known classes and functions.

        Raises:
            UnpicklingError: The pickle asks for another one.
        """
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it calls {module}.{name}"[:200])
        return self.known[module, name]


def _numbers(cell: dict[str, Any], name: str) -> dict[Any, float]:
    """The numbers of a cell, by column and seed."""
    found: dict[Any, float] = {}
    for epochs, other in LENGTHS.items():
        results = cell[epochs if epochs in cell else other]
        if results["arch_str"] != name:
            raise ValueError(f"it has results of {reprlib.repr(results['arch_str'])}, not of {name}")
        for (data, seed), trial in results["all_results"].items():
            for column, (trained, scored) in SETS.items():
                if data == trained:
                    found[f"{column}_{epochs}", int(seed)] = _accuracy(trial, scored, int(epochs))
                    found |= _costs(trial, column.partition("_")[0], epochs, int(seed), column.endswith("val"))
    return found


def _accuracy(trial: dict[str, Any], scored: str, epochs: int) -> float:
    """The accuracy at the end of a training, in percent.

    Raises:
        ValueError: The number is not a percentage.
    """
    accuracy = float(trial["eval_acc1es"][f"{scored}@{epochs - 1}"])
    if not 0 <= accuracy <= 100:
        raise ValueError(f"the accuracy {accuracy}")
    return accuracy


def _costs(trial: dict[str, Any], data: str, epochs: str, seed: int, validation: bool) -> dict[Any, float]:
    """Costs of the network, and seconds of the training that validation accuracies come from."""
    found = {(f"{data}_params", 0): 1e6 * float(trial["params"]), (f"{data}_flops", 0): float(trial["flop"])}
    times = trial["train_times"]
    if validation and times is not None:
        found[f"{data}_train_seconds_{epochs}", seed] = float(sum(times[epoch] for epoch in range(int(epochs))))
    return found


def _columns(found: list[dict[Any, float]]) -> dict[str, Any]:
    """The columns of all cells.

    Raises:
        DataError: A cell lacks a column.
    """
    keys: dict[str, list[Any]] = {}
    for key in sorted(set().union(*found)):
        keys.setdefault(key[0], []).append(key)
    columns = {}
    for name, own in keys.items():
        values = np.array([[cell.get(key, np.nan) for key in own] for cell in found])
        missing = np.isnan(values).all(axis=1)
        if missing.any() and "seconds" not in name:
            raise DataError(f"Cell {int(missing.argmax())} has no {name}. {_REPAIR}")
        if name.endswith("_params"):
            columns[name] = values[:, 0].round().astype(np.int32)
        elif name.endswith("_flops"):
            columns[name] = values[:, 0].astype(np.float32)
        elif "seconds" in name:
            known = (~np.isnan(values)).sum(axis=1)
            mean = np.divide(np.nansum(values, axis=1), known, out=np.full(len(found), np.nan), where=known > 0)
            columns[name] = mean.astype(np.float32)
        else:
            columns[name] = values.astype(np.float32)
    return columns
