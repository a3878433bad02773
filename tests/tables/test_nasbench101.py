"""The table of NAS-Bench-101: a made-up one of five cells, and the real one where it is."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.nasbench101 import NASBench101Table

NAMES = ["maxpool3x3", "conv3x3-bn-relu", "conv1x1-bn-relu"]  # another order than the space's
TEXTS = [
    "output(0)",
    "conv3x3-bn-relu(0) output(1)",
    "conv1x1-bn-relu(0) maxpool3x3(0,1) output(0,2)",
    "conv3x3-bn-relu(0) conv3x3-bn-relu(0,1) conv1x1-bn-relu(1,2) output(3)",
    "conv3x3-bn-relu(0) conv3x3-bn-relu(0,1) maxpool3x3(0,2) conv1x1-bn-relu(3) maxpool3x3(4) output(5)",
]
SPACE = NASBench101Space()
CELLS = sorted(map(SPACE.parse, TEXTS), key=SPACE.key)


def file(**changes: Any) -> str:
    graphs = [SPACE.graphs(cell)[0] for cell in CELLS]
    ops = np.full((len(CELLS), 5), 255, np.uint8)
    for row, graph in zip(ops, graphs, strict=True):
        row[: len(graph.nodes) - 2] = [NAMES.index(name) for name in graph.nodes[1:-1]]
    arrays = {
        "edge_bits": np.array(
            [sum(1 << x + y * (y - 1) // 2 for x, y, _ in graph.edges) for graph in graphs], np.uint32
        ),
        "num_vertices": np.array([len(graph.nodes) for graph in graphs], np.uint8),
        "ops": ops,
        "op_names": np.array(NAMES),
        "module_hash": np.array([list(bytes.fromhex(SPACE.key(cell))) for cell in CELLS], np.uint8),
        "test_acc_108": np.array([90.5, 91.5, 92.5, 93.5, np.nan], np.float32),
    }
    np.savez("table.npz", **{name: values for name, values in {**arrays, **changes}.items() if values is not None})
    return "table.npz"


def test_cells_are_found_in_whatever_form() -> None:
    table = NASBench101Table(file())
    assert table.columns == ["test_acc_108"]
    assert len(table) == 5
    assert table.rows(CELLS[::-1]).tolist() == [4, 3, 2, 1, 0]
    assert [SPACE.key(table.architecture(row)) for row in range(5)] == [SPACE.key(cell) for cell in CELLS]
    # a vertex that does not count
    cell = SPACE.parse("conv3x3-bn-relu(0) conv3x3-bn-relu(0) output(1)")
    assert table.lookup(cell, "test_acc_108") == table.lookup(SPACE.parse(TEXTS[1]), "test_acc_108")
    assert table.lookup_many(CELLS[:4], "test_acc_108").tolist() == [90.5, 91.5, 92.5, 93.5]


def test_more_files_name_cells_by_their_keys() -> None:
    keys = np.array([SPACE.key(cell) for cell in CELLS[:0:-1]])
    np.savez("more.npz", arch=keys, ms=np.arange(4.0))
    table = NASBench101Table(file(), ["more.npz"])
    assert table.lookup_many(CELLS[1:], "ms").tolist() == [3.0, 2.0, 1.0, 0.0]
    assert table.named(["", "no key", keys[0].upper(), keys[0], "f" * 32, "0" * 32]).tolist() == [-1, -1, -1, 4, -1, -1]


def test_what_is_not_there_is_said() -> None:
    table = NASBench101Table(file())
    with pytest.raises(ConfigError, match=r"it has \['test_acc_108'\]\. .*no validation accuracies"):
        table.lookup(CELLS[0], "val_acc_108")
    with pytest.raises(ArchitectureError, match="NASBench201Space"):
        table.lookup(NASBench201Space().largest(), "test_acc_108")
    with pytest.raises(DataError, match=r"has no test_acc_108 of maxpool3x3\(0\) output\(1\)"):
        table.lookup(SPACE.parse("maxpool3x3(0) output(1)"), "test_acc_108")
    with pytest.raises(DataError, match="has no test_acc_108 of"):
        table.lookup(CELLS[4], "test_acc_108")
    with pytest.raises(ConfigError, match="has the rows 0 to 4"):
        table.architecture(5)
    with pytest.raises(DataError, match="Set the table's path"):
        NASBench101Table("nowhere.npz").lookup(CELLS[0], "test_acc_108")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"module_hash": None}, "module_hash is not a file"),
        ({"module_hash": np.zeros((5, 15), np.uint8)}, "expected uint8"),
        ({"module_hash": np.zeros((0, 16), np.uint8)}, "expected uint8"),
        ({"module_hash": np.zeros((5, 16), np.float32)}, "expected uint8"),
        ({"module_hash": np.zeros((5, 16), np.uint8)}, "does not ascend"),
        ({"module_hash": np.arange(80, dtype=np.uint8).reshape(5, 16)[::-1]}, "does not ascend"),
        ({"ops": np.zeros((4, 5), np.uint8)}, "has operations"),
        ({"ops": np.full((5, 5), 3, np.uint8)}, "has operations"),
        ({"ops": np.zeros((5, 5))}, "has operations"),
        ({"num_vertices": np.full(5, 8, np.uint8)}, "has operations"),
        ({"num_vertices": np.full(5, 1, np.uint8)}, "has operations"),
        ({"edge_bits": np.zeros(4, np.uint32)}, "has operations"),
        ({"op_names": np.array(["a", *NAMES[1:]])}, "has operations"),
        ({"op_names": None}, "op_names is not a file"),
        ({"test_acc_108": np.zeros(4)}, "expected 5 numbers"),
    ],
)
def test_other_files_are_refused(changes: dict[str, Any], match: str) -> None:
    table = NASBench101Table(file(**changes))
    with pytest.raises(DataError, match=match):
        table.lookup(table.architecture(0), "test_acc_108")


def test_a_row_that_is_no_cell_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="no path"):
        NASBench101Table(file(edge_bits=np.zeros(5, np.uint32))).architecture(0)


@pytest.mark.data
def test_published_results() -> None:
    folder = os.environ.get("LIGHTNING_NAS_DATA")
    if not folder:
        pytest.skip("LIGHTNING_NAS_DATA is not set; it names the folder of nasbench101.npz")
    table = NASBench101Table(str(Path(folder) / "nasbench101.npz"))
    assert len(table) == 423624
    best = SPACE.parse(
        "conv1x1-bn-relu(0) conv3x3-bn-relu(0) maxpool3x3(2) conv3x3-bn-relu(3) conv3x3-bn-relu(0,1,4) output(0,5)"
    )
    assert table.lookup(best, "test_acc_108") == pytest.approx(94.3176, abs=5e-5) == table.column("test_acc_108").max()
    # every network that is sampled has a row, and a row's network is found there
    generator = torch.Generator().manual_seed(0)
    assert (table.rows([SPACE.sample(generator) for _ in range(200)]) >= 0).all()
    rows = torch.randint(len(table), (200,), generator=generator).tolist()
    assert table.rows([SPACE.canonical(table.architecture(row)) for row in rows]).tolist() == rows
