"""The table of NATS-Bench's sizes from files in the official format, written here by hand."""

import bz2
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_nas.__main__ import main
from lightning_nas.errors import DataError
from lightning_nas.spaces import NATSBenchSizeSpace
from lightning_nas.tables import SpaceTable, natsbench_size_from_download
from lightning_nas.tables.official_nats import SETS

SPACE = NATSBenchSizeSpace()
NAMES = ["8:8:8:8:8", "8:8:16:40:40"]
EPOCHS = ("01", "12", "90")
PARAMETERS = (0.011714, 0.107826)


def trial(row: int, epochs: int, data: str) -> dict[str, Any]:
    """What is published of one training; only the last epoch counts."""
    scored = [column for trained, column in SETS.values() if trained == data]
    scores = {f"{column}@{epoch}": 1.0 for column in scored for epoch in range(epochs - 1)}
    last = {f"{column}@{epochs - 1}": np.float64(50 + row + epochs / 10) for column in scored}
    return {
        "train_times": OrderedDict((epoch, 2.0) for epoch in range(epochs)),
        "params": PARAMETERS[row],
        "flop": 4.5,
        "eval_acc1es": scores | last,
    }


def results(row: int, epochs: str) -> dict[str, Any]:
    sets = {data for data, _ in SETS.values()}
    return {"arch_str": NAMES[row], "all_results": {(data, 777): trial(row, int(epochs), data) for data in sets}}


def folder(**changes: Any) -> Path:
    path = Path("NATS-sss-v1_0-50262-simple")
    path.mkdir()
    contents: dict[str, Any] = {"meta": {"meta_archs": NAMES}}
    contents |= {f"{row:06d}": {epochs: results(row, epochs) for epochs in EPOCHS} for row in range(len(NAMES))}
    for name, content in (contents | changes).items():
        (path / f"{name}.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(content, protocol=4)))
    return path


def test_the_table_has_what_the_download_says(capsys: pytest.CaptureFixture[str]) -> None:
    main(["table", "natsbench_size", str(folder())])
    assert capsys.readouterr().out == "natsbench_size.npz\n"
    table = SpaceTable("natsbench_size.npz", SPACE)
    accuracies = {f"{column}_{int(epochs)}" for column in SETS for epochs in EPOCHS}
    assert accuracies < set(table.columns)
    for row, name in enumerate(NAMES):
        architecture = SPACE.parse(name)
        assert table.named([name]).tolist() == table.rows([architecture]).tolist() == [row]
        for column in SETS:
            for epochs in EPOCHS:
                expected = 50 + row + int(epochs) / 10
                assert table.lookup(architecture, f"{column}_{int(epochs)}", 0) == pytest.approx(expected)
        assert table.lookup(architecture, "cifar10_params") == round(1e6 * PARAMETERS[row])
        assert table.lookup(architecture, "cifar100_flops") == 4.5
        assert table.lookup(architecture, "cifar10_train_seconds_90") == 180


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"meta": {}}, "no list 'meta_archs' of its cells"),
        ({"meta": {"meta_archs": [NAMES[0], "8:8:8:8:9"]}}, "lists something that is not an architecture"),
        ({"meta": {"meta_archs": [NAMES[0], [7]]}}, "lists something that is not an architecture"),
        ({"meta": {"meta_archs": NAMES[:1] * 2}}, "lists an architecture twice"),
        ({"meta": {"meta_archs": NAMES[::-1]}}, "Cell 0 .*has results of"),
        ({"000001": {"90": results(1, "90")}}, "Cell 1 .*KeyError"),
        ({"000001": np.float64}, "000001.pickle.pbz2 cannot be read .*it calls numpy"),
    ],
)
def test_wrong_contents_are_named(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        natsbench_size_from_download(folder(**changes), "made.npz")
    assert not Path("made.npz").exists()


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(DataError, match="meta.pickle.pbz2 cannot be read .* Download NATS-sss-v1_0-50262-simple.tar"):
        natsbench_size_from_download("none", "made.npz")
