"""NAS-Bench-101's table from a file in the official format, written here by hand."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_nas.errors import DataError
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.tables.nasbench101 import NASBench101Table
from lightning_nas.tables.official_nasbench101 import nasbench101_from_tfrecord

SPACE = NASBench101Space()
CELLS = [
    SPACE.parse(text)
    for text in (
        "output(0)",
        "conv3x3-bn-relu(0) output(1)",
        "conv3x3-bn-relu(0) conv3x3-bn-relu(0,1) maxpool3x3(0,2) conv1x1-bn-relu(3) maxpool3x3(4) output(5)",
    )
]


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def message(*fields: tuple[int, Any]) -> bytes:
    """A protocol buffer: integers, doubles and bytes by their field numbers."""
    parts = []
    for number, value in fields:
        if isinstance(value, float):
            parts.append(varint(number << 3 | 1) + struct.pack("<d", value))
        elif isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def encoded(*fields: tuple[int, Any]) -> str:
    return base64.b64encode(message(*fields)).decode()


def training(cell: int, length: int, trial: int, **changes: Any) -> list[Any]:
    """A record; accuracies and seconds tell where they belong."""
    graph = SPACE.graphs(CELLS[cell])[0]
    size = len(graph.nodes)
    edges = {(x, y) for x, y, _ in graph.edges}
    adjacency = "".join(str(int((x, y) in edges)) for x in range(size) for y in range(size))
    halfway = [(2, 1.0), (3, 0.1), (4, 0.1), (5, 0.1)]
    end = [(2, 100.0 * length + trial), (3, 0.99), (4, 0.5 + cell / 10 + trial / 100), (5, 0.25 + cell / 10)]
    evaluations = [[(1, 0.0), *halfway], [(1, length / 2), *halfway], [(1, float(length)), *end, (6, b"a/checkpoint")]]
    metrics = encoded(*((1, message(*each)) for each in evaluations), (2, 1_000_000 + cell), (3, 4321.5))
    record = {
        "hash": SPACE.key(CELLS[cell]),
        "epochs": length,
        "adjacency": adjacency,
        "operations": ",".join(graph.nodes),
        "metrics": metrics,
    }
    return list((record | changes).values())


def framed(*records: list[Any]) -> bytes:
    texts = [json.dumps(record).encode() for record in records]
    return b"".join(struct.pack("<QI", len(text), 1) + text + struct.pack("<I", 2) for text in texts)


def all_trainings(*lengths: int) -> list[list[Any]]:
    return [training(cell, length, trial) for length in lengths for trial in range(3) for cell in (2, 0, 1)]


def converted(*records: list[Any]) -> Path:
    Path("made.tfrecord").write_bytes(framed(*records))
    return nasbench101_from_tfrecord("made.tfrecord", "made.npz", check=False)


def test_the_table_has_what_the_records_say() -> None:
    table = NASBench101Table(str(converted(*all_trainings(108))))
    columns = ["params", "test_acc_108", "train_acc_108", "train_seconds_108", "val_acc_108"]
    assert (len(table), table.columns) == (3, columns)
    assert {table.space.key(table.architecture(row)) for row in range(3)} == {SPACE.key(cell) for cell in CELLS}
    for number, cell in enumerate(CELLS):
        assert table.lookup(cell, "params") == 1_000_000 + number
        assert table.lookup(cell, "test_acc_108") == pytest.approx(25 + 10 * number)
        assert table.lookup(cell, "train_acc_108") == pytest.approx(99)
        for trial in range(3):
            assert table.lookup(cell, "val_acc_108", trial) == pytest.approx(50 + 10 * number + trial)
            assert table.lookup(cell, "train_seconds_108", trial) == 10_800 + trial


def test_the_full_file_has_all_lengths() -> None:
    table = NASBench101Table(str(converted(*all_trainings(4, 12, 36, 108))))
    assert {c for c in table.columns if c.startswith("val")} == {f"val_acc_{n}" for n in (4, 12, 36, 108)}
    assert table.lookup(CELLS[1], "train_seconds_36") == pytest.approx(3601)


def test_other_files_are_refused_by_their_checksum() -> None:
    Path("made.tfrecord").write_bytes(framed(*all_trainings(108)))
    with pytest.raises(DataError, match="sha256 .* expected 3d64db.* or 4c39c3.*"):
        nasbench101_from_tfrecord("made.tfrecord", "made.npz")
    assert not Path("made.npz").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hash": "0" * 32}, "Record 9 .*the hash 0000"),
        ({"hash": SPACE.key(CELLS[1])}, "4 trainings of 108 epochs of the cell"),
        ({"epochs": 12}, "0 trainings of 12 epochs"),
        ({"operations": "input,conv9x9,output", "hash": "1" * 32}, "Record 9"),
        ({"metrics": "&"}, "Record 9"),
        ({"metrics": encoded((2, 7))}, "Record 9 .*0 evaluations"),
        ({"metrics": encoded((1, b""), (1, b""), (1, b"\x09\x00"))[:-4]}, "Record 9"),
        ({"metrics": encoded(*[(1, message((2, 1.0), (3, 7.0), (4, 0.1), (5, 0.1)))] * 3)}, "7.0"),
    ],
)
def test_wrong_records_are_named(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        converted(*all_trainings(108), training(0, 108, 3, **changes))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "has no records"),
        (b"PK\x03\x04" + 60 * b"\xff", "no records of a TFRecord"),
        (framed(training(0, 108, 0))[:-1], "ends within a record"),
        (framed(training(0, 108, 0))[:7], "ends within one"),
    ],
)
def test_foreign_and_cut_files_are_refused(content: bytes, match: str) -> None:
    Path("made.tfrecord").write_bytes(content)
    with pytest.raises(DataError, match=match):
        nasbench101_from_tfrecord("made.tfrecord", "made.npz", check=False)
    assert not Path("made.npz").exists()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match=r"none.tfrecord cannot be read \(No such file"):
        nasbench101_from_tfrecord("none.tfrecord", "made.npz", check=False)


def test_a_missing_training_is_named() -> None:
    with pytest.raises(DataError, match=f"2 trainings of 108 epochs of the cell {SPACE.key(CELLS[1])}"):
        converted(*all_trainings(108)[:-1])


def test_rows_ascend_by_hash() -> None:
    with np.load(converted(*all_trainings(108))) as file:
        assert sorted(map(bytes, file["module_hash"])) == [bytes(row) for row in file["module_hash"]]
