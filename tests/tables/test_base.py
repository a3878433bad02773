"""What every table does: trials, rows and more files; a made-up table of three cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables import base as tables_base
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.synthetic import write_nasbench201
from tests.tables.test_nasbench201 import TEXTS, file

TRIALS = np.array([[90.0, 92.0, 94.0], [np.nan, 80.0, 81.0], [np.nan] * 3], np.float32)


def cells(*rows: int) -> list[Any]:
    return [NASBench201Space.parse(TEXTS[row]) for row in rows]


def more(path: str = "more.npz", **arrays: Any) -> str:
    np.savez(path, **arrays)
    return path


def test_rows_and_architectures() -> None:
    table = NASBench201Table(file())
    assert len(table) == 3
    unknown = table.space.architecture([0] * 6)
    assert table.rows([*cells(2, 0, 0), unknown]).tolist() == [2, 0, 0, -1]
    assert table.rows([]).tolist() == []
    assert [table.space.text(table.architecture(row)) for row in range(3)] == TEXTS
    assert table.named([TEXTS[1], "none", TEXTS[0]]).tolist() == [1, -1, 0]
    for row in (-1, 3):
        with pytest.raises(ConfigError, match="has the rows 0 to 2"):
            table.architecture(row)
    with pytest.raises(ArchitectureError, match="DARTSSpace"):
        table.rows([*cells(0), DARTSSpace().largest()])


def test_many_are_looked_up_at_once() -> None:
    table = NASBench201Table(file())
    assert table.lookup_many(cells(1, 2, 1), "cifar10_test_200").tolist() == [94.5, 10.0, 94.5]
    assert table.lookup_many([], "cifar10_test_200").tolist() == []
    assert table.column("cifar10_test_200").tolist() == [93.75, 94.5, 10.0]
    with pytest.raises(DataError, match="has no cifar10_test_200 of"):
        table.lookup_many([*cells(0), table.space.architecture([0] * 6)], "cifar10_test_200")
    with pytest.raises(ValueError, match="read-only"):
        table.column("cifar10_test_200")[0] = 1.0


def test_trials_are_looked_up_singly_or_as_their_mean() -> None:
    table = NASBench201Table(file(accuracy=TRIALS))
    assert table.trials("accuracy") == 3
    assert table.trials("cifar10_test_200") == 0
    assert table.lookup_many(cells(0, 1), "accuracy").tolist() == [92.0, 80.5]
    assert table.lookup(*cells(0), "accuracy", trial=2) == 94.0
    assert table.column("accuracy", trial=1).tolist()[:2] == [92.0, 80.0]
    np.testing.assert_array_equal(table.column("accuracy"), [92.0, 80.5, np.nan])
    with pytest.raises(DataError, match="has no accuracy of .* in trial 0"):
        table.lookup(*cells(1), "accuracy", trial=0)
    with pytest.raises(DataError, match="has no accuracy of"):
        table.lookup(*cells(2), "accuracy")
    for trial in (3, -1):
        with pytest.raises(ConfigError, match="has the trials 0 to 2"):
            table.lookup(*cells(0), "accuracy", trial=trial)
    with pytest.raises(ConfigError, match="one number per architecture"):
        table.lookup(*cells(0), "cifar10_test_200", trial=0)


def test_infinite_results_are_none() -> None:
    table = NASBench201Table(file(accuracy=np.array([[np.inf, 1.0]] * 3)))
    with pytest.raises(DataError, match="has no accuracy of"):
        table.lookup(*cells(0), "accuracy")


def test_a_column_of_validation_accuracies_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="There are no validation accuracies among them"):
        NASBench201Table(file()).column("cifar10_val_200")
    table = NASBench201Table(file(cifar10_val_200=np.zeros(3)))
    with pytest.raises(ConfigError, match=r"'cifar100_val_200'; it has .*'cifar10_val_200'.*\]\.$"):
        table.column("cifar100_val_200")


def test_more_files_are_matched_by_names() -> None:
    names = [TEXTS[2], "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", TEXTS[0]]
    latency = more(arch=np.array(names), ms=np.array([3, 9, 1]), runs=np.array([[3, 4], [9, 9], [1, 2]], np.float32))
    energy = more("energy.npz", arch=np.array(TEXTS), mj=np.array([0.5, 0.25, 0.125]))
    table = NASBench201Table(file(), [latency, energy])
    assert table.columns == ["cifar10_test_200", "mj", "ms", "runs", "seconds"]
    assert table.lookup_many(cells(0, 2), "ms").tolist() == [1.0, 3.0]
    assert table.lookup_many(cells(0, 2), "runs").tolist() == [1.5, 3.5]
    assert table.lookup(*cells(2), "runs", trial=1) == 4.0
    assert table.lookup(*cells(1), "mj") == 0.25
    with pytest.raises(DataError, match="has no ms of"):
        table.lookup(*cells(1), "ms")


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"ms": np.zeros(3)}, "arch is not a file"),
        ({"arch": np.array(["a", "b"]), "ms": np.zeros(2)}, "names 0 rows"),
        ({"arch": np.array([TEXTS[0]] * 2), "ms": np.zeros(2)}, "1 of them different"),
        ({"arch": np.array([TEXTS[:2]]), "ms": np.zeros(2)}, r"shape \(1, 2\)"),
        ({"arch": np.array(TEXTS), "ms": np.zeros(2)}, "expected 3 numbers"),
        ({"arch": np.array(TEXTS), "seconds": np.zeros(3), "ms": np.zeros(3)}, "both have a column 'seconds'"),
    ],
)
def test_other_files_with_columns_are_refused(arrays: dict[str, Any], match: str) -> None:
    table = NASBench201Table(file(), [more(**arrays)])
    with pytest.raises(DataError, match=match):
        table.lookup(*cells(0), "ms")


def test_arrays_that_unpack_to_far_more_than_their_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_nasbench201("made_up.npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    rows = len(arrays["ops"])
    np.savez_compressed("packed.npz", **arrays, many=np.zeros((rows, 2000)))
    monkeypatch.setattr(tables_base, "LARGEST_ARRAY", 2**24)
    table = NASBench201Table("packed.npz")
    assert len(table) == rows
    with pytest.raises(DataError, match=r"'many' in packed.npz has \d+ bytes when it is unpacked; .* at most 16777216"):
        table.column("many")


def test_missing_and_damaged_files_with_columns_are_said() -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz does not exist. Set the table's extra"):
        NASBench201Table(file(), ["nowhere.npz"]).lookup(*cells(0), "ms")
    Path("broken.npz").write_bytes(b"no npz")
    with pytest.raises(DataError, match=r"broken\.npz cannot be read"):
        NASBench201Table(file(), ["broken.npz"]).lookup(*cells(0), "ms")


def test_only_what_is_asked_for_is_read() -> None:
    """A column that is damaged harms nobody who does not ask for it."""
    table = NASBench201Table(file(broken=np.array([None] * 3)))
    assert table.lookup(*cells(0), "cifar10_test_200") == 93.75
    with pytest.raises(DataError, match="cannot be read"):
        table.lookup(*cells(0), "broken")
    # nothing at all is read before something is asked
    assert NASBench201Table("nowhere.npz").path == Path("nowhere.npz")


def test_the_made_up_table_is_one() -> None:
    table = NASBench201Table(str(write_nasbench201("made_up.npz", trials=2)))
    assert len(table) == 15625
    stored = np.load("made_up.npz")
    cell = NASBench201Space.parse(str(stored["arch"][777]))
    assert table.rows([cell]).tolist() == [777]
    assert table.lookup(cell, "cifar10_val_200") == pytest.approx(float(stored["cifar10_val_200"][777].mean()))
