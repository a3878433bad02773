"""What the downloads of NAS-Bench-201 and of both spaces of NATS-Bench have in common."""

import bz2
import pickle
import re
import reprlib
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lightning_nas.errors import DataError
from lightning_nas.files.pickles import check_keys

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

WRONG = (
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
"""Errors of wrong contents."""

UNREADABLE = (*WRONG, pickle.UnpicklingError, struct.error)
"""Errors of files that cannot be read."""


def folder(path: Path, repair: str) -> tuple[list[str], Iterator[Any]]:
    """Read a folder of NATS-Bench, with one file per architecture.

    Args:
        path: The folder.
        repair: How to get another one, for the messages.

    Returns:
        The names of all architectures in their published order, and the results of each.

    Raises:
        DataError: A file is missing or damaged, or it is not such a folder.
    """
    names = listed(unpacked(path / "meta.pickle.pbz2", repair), path, repair)
    return names, (unpacked(path / f"{number:06d}.pickle.pbz2", repair) for number in range(len(names)))


def columns(
    names: Sequence[str], results: Iterator[Any], lengths: Mapping[str, str], path: Path, repair: str
) -> dict[str, Any]:
    """Collect the columns of a table.

    Args:
        names: Names of all architectures.
        results: The results of each.
        lengths: Two names for the trainings of a length, the first one its number of epochs.
        path: The download, for the messages.
        repair: How to get another one, for the messages.

    Raises:
        DataError: The results of an architecture cannot be used, or it lacks a column.
    """
    found = []
    for number, (name, each) in enumerate(zip(tqdm(names, desc="cells"), results, strict=True)):
        try:
            found.append(_numbers(each, name, lengths))
        except WRONG as error:
            raise DataError(
                f"Cell {number} of {path} cannot be used ({type(error).__name__}: {error!s:.200}). {repair}"
            ) from None
    return _columns(found, repair)


def listed(content: Any, path: Path, repair: str) -> list[str]:
    """The names of all architectures in their published order.

    Args:
        content: What the download has of all of them.
        path: The download, for the messages.
        repair: How to get another one, for the messages.

    Raises:
        DataError: There are none.
    """
    names = content.get("meta_archs") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names:
        raise DataError(f"{path} has no list 'meta_archs' of its cells, but {reprlib.repr(content)}. {repair}")
    return names


def unpacked(path: Path, repair: str) -> Any:
    """The content of a packed pickle of containers, numbers and text; nothing in it is executed.

    Args:
        path: The file.
        repair: How to get another one, for the message.

    Raises:
        DataError: It is missing or damaged, or holds something else.
    """
    try:
        with bz2.open(path) as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"more than {_LARGEST} bytes")
        check_keys(data)
        return _Plain(BytesIO(data)).load()
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error!s:.300}). {repair}") from None


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


def _numbers(cell: dict[str, Any], name: str, lengths: Mapping[str, str]) -> dict[Any, float]:
    """The numbers of a cell, by column and seed."""
    found: dict[Any, float] = {}
    for length, other in lengths.items():
        results = cell[length if length in cell else other]
        epochs = str(int(length))
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


def _columns(found: list[dict[Any, float]], repair: str) -> dict[str, Any]:
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
            raise DataError(f"Cell {int(missing.argmax())} has no {name}. {repair}")
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
