"""The table of NAS-Bench-101 from its official download, without TensorFlow."""

import json
import struct
from array import array
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from lightning_nas.errors import DataError, NASError
from lightning_nas.spaces.nasbench101.cell import VERTICES
from lightning_nas.spaces.nasbench101.network import CELL_OPERATIONS
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.tables.official import check_digest, opened, write_table

SHA256 = (
    "3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c",  # nasbench_full.tfrecord
    "4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1",  # nasbench_only108.tfrecord
)
"""The published checksums of the two downloads."""

TRIALS = 3
"""Number of trainings of every cell per number of epochs."""

_MEASURED = ("train_seconds", "train_acc", "val_acc", "test_acc")
"""The fields 2 to 5 of an evaluation."""

_EVALUATIONS = 3
"""Number of evaluations of a training: before it, after half of its epochs, and at its end."""

_LARGEST = 2**20
"""Size in bytes of the largest record that is read; published ones have about 400."""

_REPAIR = "Download nasbench_only108.tfrecord or nasbench_full.tfrecord of NAS-Bench-101 again."
_NAMES = list(CELL_OPERATIONS)


def nasbench101_from_tfrecord(path: str | Path, to: str | Path, *, check: bool = True) -> Path:
    """Write the npz file of ``NASBench101Table`` from ``nasbench_only108.tfrecord`` or ``nasbench_full.tfrecord``.

    The columns are ``params``, and for each number of epochs (108, or 4, 12, 36 and 108) the results of three trials at
    the end of their trainings, ``(cells, 3)``: ``test_acc_108``, ``val_acc_108`` and ``train_acc_108`` in percent, and
    ``train_seconds_108``. The hash of every cell is computed anew from its graph. The checksums of single records
    (CRC-32C) are ignored, as the checksum of the whole file covers them.

    References:
        1. Ying, Klein, Real, Christiansen, Murphy, Hutter: NAS-Bench-101: Towards Reproducible Neural Architecture
           Search, ICML 2019, https://arxiv.org/abs/1902.09635

    Args:
        path: Path of the download.
        to: Path of the npz file.
        check: Whether the download must have one of the published SHA-256 checksums.

    Returns:
        The path of the npz file.

    Raises:
        DataError: The download is missing, damaged or a different file, or it lacks a training.
        ArtifactError: The npz file cannot be written.

    Example:
        ```python
        nasbench101_from_tfrecord("nasbench_only108.tfrecord", "nasbench101.npz")
        ```
    """
    path = Path(path)
    if check:
        check_digest(path, "sha256", SHA256, _REPAIR)
    trainings = _Trainings()
    with opened(path, "records") as file:
        for number, record in enumerate(_records(file, path)):
            try:
                trainings.add(record)
            except (ValueError, TypeError, LookupError, struct.error, NASError) as error:
                raise DataError(
                    f"Record {number} of {path} cannot be used ({type(error).__name__}: {error!s:.200}). {_REPAIR}"
                ) from None
    return write_table(to, trainings.arrays(path))


def _records(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length, checksum of the length, record, checksum of the record."""
    while head := file.read(12):
        length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
        if not 0 < length <= _LARGEST:
            raise DataError(f"{path} has no records of a TFRecord file, or ends within one. {_REPAIR}")
        record = file.read(length + 4)
        if len(record) < length + 4:
            raise DataError(f"{path} ends within a record. {_REPAIR}")
        yield record[:length]


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the fields of a protocol buffer; integers, doubles and bytes are read."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        value: Any
        if kind == 0:
            value, at = _varint(message, at)
        elif kind == 1:
            (value,) = struct.unpack_from("<d", message, at)
            at += 8
        elif kind == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"a field has the wire type {kind}")
        if at > len(message):
            raise ValueError("a field is longer than its message")
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of variable length, and the position after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


class _Trainings:
    """The contents of all records."""

    def __init__(self) -> None:
        self._space = NASBench101Space()
        self._cells: dict[bytes, int] = {}
        self._graphs: list[tuple[int, int, list[int], int]] = []
        self._of = array("i")
        self._epochs = array("i")
        self._values = array("f")

    def add(self, record: bytes) -> None:
        """Add a record: ``[hash, epochs, adjacency matrix, operations, metrics]``."""
        name, epochs, adjacency, operations, packed = json.loads(record)
        fields = list(_fields(b64decode(packed, validate=True)))
        evaluations = [value for number, value in fields if number == 1]
        if len(evaluations) != _EVALUATIONS:
            raise ValueError(f"{len(evaluations)} evaluations, not {_EVALUATIONS}")
        final = dict(_fields(evaluations[-1]))
        seconds, *accuracies = (float(final[number]) for number in range(2, 6))
        if not all(0 <= accuracy <= 1 for accuracy in accuracies):
            raise ValueError(f"accuracies {accuracies}")
        key = bytes.fromhex(name)
        if key not in self._cells:
            self._graphs.append((*self._graph(name, adjacency, operations.split(",")), int(dict(fields)[2])))
            self._cells[key] = len(self._cells)
        self._of.append(self._cells[key])
        self._epochs.append(epochs)
        self._values.extend((seconds, *(100 * accuracy for accuracy in accuracies)))

    def _graph(self, name: str, adjacency: str, operations: list[str]) -> tuple[int, int, list[int]]:
        """Edge bits, number of vertices, and operations of the inner vertices."""
        size, inner = len(operations), operations[1:-1]
        matrix = [[int(bit) for bit in adjacency[row * size : (row + 1) * size]] for row in range(size)]
        if len(adjacency) != size**2 or [operations[0], operations[-1]] != ["input", "output"]:
            raise ValueError(f"operations {operations} for a matrix of {len(adjacency)} bits")
        found = self._space.key(self._space.from_matrix(matrix, inner))
        if found != name:
            raise ValueError(f"the hash {name} of a cell whose hash is {found}")
        bits = sum(matrix[x][y] << x + y * (y - 1) // 2 for y in range(size) for x in range(y))
        return bits, size, [_NAMES.index(operation) for operation in inner]

    def arrays(self, path: Path) -> dict[str, Any]:
        """The arrays of the npz file, with rows in the order of the hashes."""
        if not self._cells:
            raise DataError(f"{path} has no records. {_REPAIR}")
        hashes = np.frombuffer(b"".join(self._cells), np.uint8).reshape(-1, 16)
        order = np.array(sorted(range(len(hashes)), key=list(self._cells).__getitem__))
        bits, sizes, operations, params = zip(*self._graphs, strict=True)
        ops = np.full((len(hashes), VERTICES - 2), 255, np.uint8)
        for row, own in zip(ops, operations, strict=True):
            row[: len(own)] = own
        arrays = {
            "module_hash": hashes[order],
            "edge_bits": np.array(bits, np.uint32)[order],
            "num_vertices": np.array(sizes, np.uint8)[order],
            "ops": ops[order],
            "op_names": np.array(_NAMES),
            "params": np.array(params, np.int32)[order],
        }
        of, epochs = np.array(self._of), np.array(self._epochs)
        values = np.array(self._values, np.float32).reshape(-1, len(_MEASURED))
        for length in np.unique(epochs).tolist():
            chosen = np.flatnonzero(epochs == length)
            counts = np.bincount(of[chosen], minlength=len(hashes))
            if (counts != TRIALS).any():
                cell = int((counts != TRIALS).argmax())
                raise DataError(
                    f"{path} has {counts[cell]} trainings of {length} epochs of the cell "
                    f"{hashes[cell].tobytes().hex()}; expected {TRIALS}. {_REPAIR}"
                )
            trials = values[chosen[of[chosen].argsort(kind="stable")]].reshape(-1, TRIALS, len(_MEASURED))[order]
            arrays |= {f"{name}_{length}": trials[..., i] for i, name in enumerate(_MEASURED)}
        return arrays
