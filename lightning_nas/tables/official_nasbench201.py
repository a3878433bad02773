"""NAS-Bench-201's table from its official downloads."""

import bz2
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lightning_nas.errors import DataError, NASError
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.official import check_digest, opened, write_table

LENGTHS = {"12": "less", "200": "full"}
"""Epochs of the two kinds of training, as NATS-Bench's files name them and as NAS-Bench-201's do."""

SETS = {
    "cifar10_val": ("cifar10-valid", "x-valid"),  # trained on half of the training images, scored on the other
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_val": ("cifar100", "x-valid"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16_val": ("ImageNet16-120", "x-valid"),
    "imagenet16_test": ("ImageNet16-120", "x-test"),
}
"""From the first words of a column to the trained data set and the scored images, as the published code pairs them."""

_LARGEST = 2**28
"""Bytes of the largest unpacked file of a cell that is read."""

_DIGITS = re.compile(r"-([0-9a-f]{5,6})\.pth")
_REPAIR = "Download NAS-Bench-201-v1_1-096897.pth, or NATS-tss-v1_0-3ffb9-simple.tar and unpack it, again."
_WRONG = (ValueError, TypeError, LookupError, AttributeError, EOFError, OSError, RuntimeError, MemoryError)
_UNREADABLE = (*_WRONG, pickle.UnpicklingError, struct.error)


def nasbench201_from_download(path: str | Path, to: str | Path, *, check: bool = True) -> Path:
    """Write the npz file of ``NASBench201Table`` from ``NAS-Bench-201-v1_1-096897.pth`` or NATS-Bench's folder.

    The folder is the unpacked ``NATS-tss-v1_0-3ffb9-simple.tar``; it takes little memory, as a file has one cell. The
    other download is read as a whole.

    Columns: accuracies in percent after all epochs of trainings of 12 and of 200, such as ``cifar10_val_200``,
    ``(cells, seeds)``, NaN for seeds that a cell was not trained with; ``cifar10_params``, ``cifar10_flops`` (millions,
    as published), ``cifar10_train_seconds_200`` (means over the seeds; of ``cifar10-valid`` where that is what
    validation accuracies come from), and likewise for ``cifar100`` and ``imagenet16``.

    Nothing in a download is executed: only containers, numbers and texts are read from its pickles. The layout is that
    of the published code that reads these files (nas_201_api and nats_bench).

    References:
        1. Dong, Yang: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020,
           https://arxiv.org/abs/2001.00326
        2. Dong, Liu, Musial, Gabrys: NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size,
           TPAMI 2021, https://arxiv.org/abs/2009.00437

    Args:
        path: The file, or the folder.
        to: The npz file.
        check: Whether the file's MD5 must end with the digits in its name, as the published one's does. Of the folder's
            files no checksums are published; bz2 has one of each block, which is always looked at.

    Returns:
        The path of the npz file.

    Raises:
        DataError: The download is missing, damaged or another, or lacks a cell or a training.
        ArtifactError: The npz file cannot be written.
    """
    path = Path(path)
    names, cells = _folder(path) if path.is_dir() else _file(path, check)
    space = NASBench201Space()
    try:
        ops = np.array([space.parse(name).choices for name in names], np.uint8)
    except (NASError, AttributeError, TypeError) as error:
        raise DataError(f"{path} lists a cell that is none ({error!s:.200}). {_REPAIR}") from None
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
    """The cells' names, and what is known of each, of NATS-Bench's folder."""
    names = _listed(_unpacked(path / "meta.pickle.pbz2"), path)
    return names, (_unpacked(path / f"{number:06d}.pickle.pbz2") for number in range(len(names)))


def _file(path: Path, check: bool) -> tuple[list[str], Iterator[Any]]:
    """The same of the one file of NAS-Bench-201."""
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
            with torch.serialization.safe_globals(_numpy_types()):
                content = torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise DataError(f"{path} cannot be read ({type(error).__name__}: {error!s:.300}). {_REPAIR}") from None
    names = _listed(content, path)
    cells = content.get("arch2infos")
    if not isinstance(cells, dict) or set(cells) != set(range(len(names))):
        raise DataError(f"{path} has no results of all of its {len(names)} cells. {_REPAIR}")
    return names, (cells[number] for number in range(len(names)))


def _listed(content: Any, path: Path) -> list[str]:
    """The cells' names in their published order."""
    names = content.get("meta_archs") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names:
        raise DataError(f"{path} has no list 'meta_archs' of its cells, but {str(content):.200}. {_REPAIR}")
    return names


def _numpy_types() -> list[Any]:
    """What numbers of numpy are made of, under the names of old and new versions."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    return [np.dtype, *kinds, *((scalar, name) for name in names)]


def _unpacked(path: Path) -> Any:
    """What is in a packed pickle of containers, numbers and texts."""
    try:
        with bz2.open(path) as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"more than {_LARGEST} bytes")
        return _Plain(BytesIO(data)).load()
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error!s:.300}). {_REPAIR}") from None


class _Type:
    """Stands for ``numpy.dtype`` in a pickle."""

    def __init__(self, text: str, *_: Any) -> None:
        self.text = text
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _scalar(kind: _Type, data: bytes) -> Any:
    """A number of numpy."""
    if not isinstance(kind, _Type) or not re.fullmatch("[fiu][248]", kind.text) or kind.order not in "<>=|":
        raise pickle.UnpicklingError("a number is of no known type")
    return np.frombuffer(data, kind.order + kind.text)[0].item()


class _Plain(pickle.Unpickler):
    """Reads containers, numbers and texts; refuses to call anything else."""

    known = {
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "dtype"): _Type,
        ("numpy.core.multiarray", "scalar"): _scalar,
        ("numpy._core.multiarray", "scalar"): _scalar,
    }

    def find_class(self, module: str, name: str) -> Any:
        """One of the known ones.

        Raises:
            UnpicklingError: It is another.
        """
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it calls {module}.{name}"[:200])
        return self.known[module, name]


def _numbers(cell: dict[str, Any], name: str) -> dict[Any, float]:
    """What is known of a cell: a number by column, and by column and seed."""
    found: dict[Any, float] = {}
    for epochs, other in LENGTHS.items():
        results = cell[epochs if epochs in cell else other]
        if results["arch_str"] != name:
            raise ValueError(f"it has results of {results['arch_str']}, not of {name}")
        for (data, seed), trial in results["all_results"].items():
            for column, (trained, scored) in SETS.items():
                if data == trained:
                    found[f"{column}_{epochs}", int(seed)] = _accuracy(trial, scored, int(epochs))
                    found |= _costs(trial, column.partition("_")[0], epochs, int(seed), column.endswith("val"))
    return found


def _accuracy(trial: dict[str, Any], scored: str, epochs: int) -> float:
    """Percent at the end of a training.

    Raises:
        ValueError: It is none.
    """
    accuracy = float(trial["eval_acc1es"][f"{scored}@{epochs - 1}"])
    if not 0 <= accuracy <= 100:
        raise ValueError(f"the accuracy {accuracy}")
    return accuracy


def _costs(trial: dict[str, Any], data: str, epochs: str, seed: int, validation: bool) -> dict[Any, float]:
    """What the trained network costs, and the training that validation accuracies come from."""
    found = {(f"{data}_params", 0): 1e6 * float(trial["params"]), (f"{data}_flops", 0): float(trial["flop"])}
    times = trial["train_times"]
    if validation and times is not None:
        found[f"{data}_train_seconds_{epochs}", seed] = float(sum(times[epoch] for epoch in range(int(epochs))))
    return found


def _columns(found: list[dict[Any, float]]) -> dict[str, Any]:
    """The columns of all cells.

    Raises:
        DataError: A cell has none of a column's numbers.
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
