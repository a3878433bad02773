"""The table of NAS-Bench-201: a made-up one of three cells, and the real one where it is."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.nasbench201 import NASBench201Table

NAMES = ["avg_pool_3x3", "none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"]  # another order than the space's
CELLS = [[4, 4, 4, 4, 4, 4], [4, 4, 4, 2, 4, 0], [1, 1, 1, 2, 1, 1]]
TEXTS = [
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|avg_pool_3x3~2|",
    "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
]


def file(path: Path = Path("table.npz"), **changes: Any) -> str:
    arrays = {
        "ops": np.array(CELLS, np.uint8),
        "op_names": np.array(NAMES),
        "arch": np.array(TEXTS),
        "cifar10_test_200": np.array([93.75, 94.5, 10.0], np.float32),
        "seconds": np.array([1.5, np.nan, np.nan], np.float32),
    }
    kept = {name: values for name, values in {**arrays, **changes}.items() if values is not None}
    np.savez(path, **kept)
    return str(path)


def test_cells_are_found_by_their_operations_whatever_the_order_of_names() -> None:
    table = NASBench201Table(file())
    assert table.columns == ["cifar10_test_200", "seconds"]
    found = [table.lookup(NASBench201Space.parse(text), "cifar10_test_200") for text in TEXTS]
    assert found == [93.75, 94.5, 10.0]
    space = NASBench201Space(operations=("skip_connect", "avg_pool_3x3", "nor_conv_3x3"))
    assert table.lookup(space.architecture([2, 2, 2, 0, 2, 1]), "cifar10_test_200") == 94.5


def test_an_evaluation_is_a_fraction() -> None:
    path = file(accuracy=np.array([93.75, 94.5, 10.0]))
    evaluations = TableLookup(NASBench201Table(path), column="accuracy").evaluate(
        [NASBench201Space.parse(t) for t in TEXTS]
    )
    assert [e.objectives for e in evaluations] == [{"accuracy": 0.9375}, {"accuracy": 0.945}, {"accuracy": 0.1}]


def test_what_is_not_there_is_said() -> None:
    table = NASBench201Table(file())
    known = NASBench201Space.parse(TEXTS[0])
    with pytest.raises(ConfigError, match=r"no column 'cifar10'; it has \['cifar10_test_200', 'seconds'\]"):
        table.lookup(known, "cifar10")
    with pytest.raises(ArchitectureError, match=r"DARTSSpace"):
        table.lookup(DARTSSpace().largest(), "cifar10_test_200")
    with pytest.raises(DataError, match="has no cifar10_test_200 of"):
        table.lookup(NASBench201Space().architecture([0] * 6), "cifar10_test_200")
    with pytest.raises(DataError, match="has no seconds of"):
        table.lookup(NASBench201Space.parse(TEXTS[1]), "seconds")
    with pytest.raises(DataError, match="Set the table's path"):
        NASBench201Table("nowhere.npz").lookup(known, "cifar10_test_200")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ops": None}, "ops is not a file"),
        ({"op_names": np.array(["a", *NAMES[1:]])}, "has operations"),
        ({"ops": np.array([[5] * 6] * 3)}, "has operations"),
        ({"ops": np.zeros((3, 5), np.uint8)}, "has operations"),
        ({"ops": np.zeros((0, 6), np.uint8)}, "has operations"),
        ({"ops": np.array([[-1] * 6] * 3)}, "has operations"),
        ({"ops": np.array([["a"] * 6] * 3)}, "has operations"),
        ({"ops": np.array([CELLS[0], *CELLS[:2]])}, "a cell twice"),
        ({"cifar10_test_200": np.array([1.0])}, "expected 3 numbers"),
        ({"cifar10_test_200": np.array(["a", "b", "c"])}, "expected 3 numbers"),
        ({"cifar10_test_200": np.array(1.0)}, "expected 3 numbers"),
        ({"cifar10_test_200": np.zeros((3, 0))}, "expected 3 numbers"),
        ({"cifar10_test_200": np.zeros((3, 2, 2))}, "expected 3 numbers"),
        ({"cifar10_test_200": np.array([None] * 3)}, "cannot be read"),
    ],
)
def test_other_files_are_refused(changes: dict[str, Any], match: str) -> None:
    table = NASBench201Table(file(**changes))
    with pytest.raises(DataError, match=match):
        table.lookup(NASBench201Space.parse(TEXTS[0]), "cifar10_test_200")


@pytest.mark.parametrize("part", [b"", b"no npz at all", 0.5])
def test_damaged_files_are_refused(part: Any) -> None:
    path = Path(file())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)] if isinstance(part, float) else part)
    with pytest.raises(DataError, match=r"table\.npz cannot be read"):
        NASBench201Table(str(path)).lookup(NASBench201Space.parse(TEXTS[0]), "cifar10_test_200")


def data(name: str) -> str:
    folder = os.environ.get("LIGHTNING_NAS_DATA")
    if not folder:
        pytest.skip(f"LIGHTNING_NAS_DATA is not set; it names the folder of {name}")
    return str(Path(folder) / name)


@pytest.mark.data
def test_published_results() -> None:
    table = NASBench201Table(data("nasbench201.npz"))
    space = NASBench201Space()
    cells = [space.architecture(c) for c in ([3] * 6, [3, 3, 3, 1, 3, 2], [1] * 6)]
    assert table.lookup_many(cells, "cifar10_test_200") == pytest.approx([93.76, 94.37, 54.30], abs=5e-3)
    assert len(table) == 15625
    assert table.rows([table.architecture(row) for row in range(0, 15625, 25)]).tolist() == list(range(0, 15625, 25))
    stored = np.load(table.path)["arch"]
    assert space.text(table.architecture(6111)) == stored[6111]
    assert table.named([str(name) for name in stored]).tolist() == list(range(15625))


@pytest.mark.data
def test_measured_latencies_are_more_columns() -> None:
    latencies = data("nasbench201_hw.npz")
    table = NASBench201Table(data("nasbench201.npz"), [latencies])
    stored = np.load(latencies)
    for row in (0, 6111, 15624):
        cell = NASBench201Space.parse(str(stored["arch"][row]))
        assert table.lookup(cell, "help_titan_rtx_1_ms") == pytest.approx(float(stored["help_titan_rtx_1_ms"][row]))
    assert {"help_raspi4_ms", "cifar10_val_200"} < set(table.columns)
