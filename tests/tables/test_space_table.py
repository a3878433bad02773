"""A table of any space."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces import NASBench201Space, NASBenchMacroSpace, NATSBenchSizeSpace
from lightning_nas.tables import SpaceTable, write_space_table

SPACE = NASBenchMacroSpace()
NAMES = ["12211222", "10010210", "00000000"]


def written(names: list[str] = NAMES, **columns: Any) -> SpaceTable:
    columns = {"val_accuracy": [[90.0, 92.0], [80.0, np.nan], [70.0, 71.0]], "size": [3, 2, 1], **columns}
    return SpaceTable(str(write_space_table("made.npz", [SPACE.parse(name) for name in names], **columns)), SPACE)


def test_architectures_are_looked_up_by_their_network() -> None:
    table = written()
    assert len(table) == 3
    assert table.columns == ["size", "val_accuracy"]
    asked = [SPACE.parse(name) for name in ("10010201", "00000000", "22222222")]
    assert table.rows(asked).tolist() == [1, 2, -1]
    assert table.lookup_many(asked[:2], "val_accuracy").tolist() == [80.0, 70.5]
    assert [SPACE.text(table.architecture(row)) for row in range(3)] == NAMES
    assert table.named([NAMES[2], "no"]).tolist() == [2, -1]
    with pytest.raises(ConfigError, match="has the rows 0 to 2"):
        table.architecture(3)
    with pytest.raises(ArchitectureError, match="NASBench201Space"):
        table.rows([NASBench201Space().largest()])


def test_more_columns_are_found_by_names() -> None:
    np.savez("more.npz", arch=np.array(NAMES[:2]), latency=np.array([1.0, 2.0]))
    write_space_table("made.npz", [SPACE.parse(name) for name in NAMES], val_accuracy=[1.0, 2.0, 3.0])
    assert SpaceTable("made.npz", SPACE, extra=["more.npz"]).lookup(SPACE.parse(NAMES[1]), "latency") == 2.0


def test_files_of_other_spaces_are_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(3, 8\); expected integers of shape \(architectures, 5\), .*NATS"):
        len(SpaceTable(str(written().path), NATSBenchSizeSpace()))
    np.savez("other.npz", choices=np.full((2, 8), 3))
    with pytest.raises(DataError, match="something that is not of NASBenchMacroSpace: Choice 0 is 3"):
        len(SpaceTable("other.npz", SPACE))
    with pytest.raises(DataError, match="2 rows for 1 different networks. Keep one row per network"):
        written(["10010201", "10010210"], val_accuracy=[1, 2], size=[1, 2]).rows([SPACE.largest()])


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"The columns \['size'\] cannot be stored for 3 architectures"):
        written(size=[1, 2])
    assert not Path("made.npz").exists()
