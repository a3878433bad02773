"""NAS-Bench-201's table from files in the official formats, written here by hand."""

import bz2
import hashlib
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_nas.__main__ import main
from lightning_nas.errors import DataError
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.official_nasbench201 import nasbench201_from_download
from lightning_nas.tables.official_nats import SETS

NAMES = [
    "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|",
    "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|",
]
SEEDS = {12: (777,), 200: (777, 888, 999)}


def accuracy(cell: int, epochs: int, seed: int, column: int) -> float:
    return 20 * cell + epochs / 10 + seed / 1000 + column


def trial(cell: int, epochs: int, data: str, seed: int) -> dict[str, Any]:
    """What is published of one training; only the last epoch counts."""
    scores = {}
    for column, (trained, scored) in enumerate(SETS.values()):
        if trained == data:
            scores |= {f"{scored}@{epoch}": 1.0 for epoch in range(epochs - 1)}
            scores[f"{scored}@{epochs - 1}"] = np.float64(accuracy(cell, epochs, seed, column))
    return {
        "name": "trial",
        "net_state_dict": None,
        "train_times": OrderedDict((epoch, 2.0) for epoch in range(epochs)) if epochs == 200 else None,
        "params": 0.5 + cell,
        "flop": np.float32(10.25),
        "seed": seed,
        "epochs": epochs,
        "eval_acc1es": scores,
    }


def results(cell: int, epochs: int) -> dict[str, Any]:
    """Of all data sets and seeds; the second cell lacks the last seed."""
    seeds = SEEDS[epochs][: 3 - cell]
    names = [data for data, _ in SETS.values()]
    trials = {(data, seed): trial(cell, epochs, data, seed) for data in dict.fromkeys(names) for seed in seeds}
    return {"arch_index": cell, "arch_str": NAMES[cell], "all_results": trials, "dataset_seed": {}}


def folder(**changes: Any) -> Path:
    """NATS-Bench's form."""
    path = Path("NATS-tss-v1_0-3ffb9-simple")
    path.mkdir()
    contents = {"meta": {"meta_archs": NAMES}}
    contents |= {f"{cell:06d}": {str(e): results(cell, e) for e in SEEDS} for cell in range(len(NAMES))}
    for name, content in (contents | changes).items():
        (path / f"{name}.pickle.pbz2").write_bytes(bz2.compress(pickle.dumps(content, protocol=4)))
    return path


def file(content: Any = None, **options: Any) -> Path:
    """NAS-Bench-201's form, with the digits of its checksum in its name."""
    lengths = {"less": 12, "full": 200}
    cells = {cell: {name: results(cell, e) for name, e in lengths.items()} for cell in range(len(NAMES))}
    torch.save(content or {"meta_archs": NAMES, "arch2infos": cells, "evaluated_indexes": {0, 1}}, "made", **options)
    digest = hashlib.md5(Path("made").read_bytes()).hexdigest()
    return Path("made").rename(f"NAS-Bench-201-v1_1-{digest[-6:]}.pth")


@pytest.mark.parametrize("made", [folder, file, lambda: file(_use_new_zipfile_serialization=False)])
def test_the_table_has_what_the_download_says(made: Any) -> None:
    table = NASBench201Table(str(nasbench201_from_download(made(), "made.npz")))
    costs = [
        f"{d}_{c}" for d in ("cifar10", "cifar100", "imagenet16") for c in ("flops", "params", "train_seconds_200")
    ]
    assert table.columns == sorted([*(f"{column}_{e}" for column in SETS for e in SEEDS), *costs])
    for number, name in enumerate(NAMES):
        cell = NASBench201Space.parse(name)
        for column, text in enumerate(SETS):
            for epochs, seeds in SEEDS.items():
                for index, seed in enumerate(seeds[: 3 - number]):
                    expected = accuracy(number, epochs, seed, column)
                    assert table.lookup(cell, f"{text}_{epochs}", index) == pytest.approx(expected)
        assert table.lookup(cell, "cifar100_params") == 500_000 + 1_000_000 * number
        assert table.lookup(cell, "imagenet16_flops") == 10.25
        assert table.lookup(cell, "cifar10_train_seconds_200") == 400
    with pytest.raises(DataError, match="in trial 2"):
        table.lookup(NASBench201Space.parse(NAMES[1]), "cifar10_val_200", 2)


def test_the_command_writes_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(folder())
    main(["table", "nasbench201", path, "--output", "made.npz"])
    assert capsys.readouterr().out == "made.npz\n"
    assert len(NASBench201Table("made.npz")) == 2
    with pytest.raises(SystemExit, match="made.npz exists already"):
        main(["table", "nasbench201", path, "--output", "made.npz"])


def test_a_file_whose_digits_are_others_is_refused() -> None:
    path = file()
    with pytest.raises(DataError, match="md5 .*; expected 096897 at its end"):
        nasbench201_from_download(path.rename("NAS-Bench-201-v1_1-096897.pth"), "made.npz")
    with pytest.raises(DataError, match="no digits of a checksum"):
        nasbench201_from_download(Path("NAS-Bench-201-v1_1-096897.pth").rename("other.pth"), "made.npz")


class Caller:
    """A pickle that makes a folder."""

    def __reduce__(self) -> Any:
        return Path.mkdir, (Path("called"),)


def test_nothing_is_executed() -> None:
    with pytest.raises(DataError, match="it calls pathlib"):
        nasbench201_from_download(folder(**{"000000": Caller()}), "made.npz")
    with pytest.raises(DataError, match="cannot be read"):
        nasbench201_from_download(file(Caller()), "made.npz")
    assert not Path("called").exists()


def without(key: str, cell: int = 1, epochs: int = 200) -> dict[str, Any]:
    """A cell whose first trial lacks something."""
    content = {str(e): results(cell, e) for e in SEEDS}
    del next(iter(content[str(epochs)]["all_results"].values()))[key]
    return content


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"meta": {}}, "no list 'meta_archs'"),
        ({"meta": [1]}, "no list 'meta_archs'"),
        ({"meta": {"meta_archs": [NAMES[0], "|none~0|"]}}, "lists something that is not a cell"),
        ({"meta": {"meta_archs": [NAMES[0], 7]}}, "lists something that is not a cell"),
        ({"meta": {"meta_archs": NAMES[:1] * 2}}, "lists a cell twice"),
        ({"meta": {"meta_archs": NAMES[::-1]}}, "Cell 0 .*has results of"),
        ({"000001": {}}, "Cell 1 .*KeyError"),
        ({"000001": without("eval_acc1es")}, "Cell 1 .*eval_acc1es"),
        ({"000001": without("params")}, "Cell 1 .*params"),
        ({"000001": {"12": results(1, 12), "200": {**results(1, 200), "all_results": {}}}}, "Cell 1 has no"),
    ],
)
def test_wrong_contents_are_named(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        nasbench201_from_download(folder(**changes), "made.npz")
    assert not Path("made.npz").exists()


def test_structures_whose_text_would_be_endless_are_refused() -> None:
    nested: Any = []
    for _ in range(60):
        nested = [nested, nested]
    cell = {"12": {**results(1, 12), "arch_str": nested}, "200": results(1, 200)}
    for changes in ({"meta": nested}, {"meta": {"meta_archs": nested}}, {"000001": cell}, {"000001": nested}):
        with pytest.raises(DataError) as caught:
            nasbench201_from_download(folder(**changes), "made.npz")
        assert len(str(caught.value)) < 1000
        shutil.rmtree("NATS-tss-v1_0-3ffb9-simple")


def endless() -> Any:
    """A key whose hash visits 2**60 values."""
    key: Any = ("cifar10-valid", 777)
    for _ in range(60):
        key = (key, key)
    return key


def with_endless_key(protocol: int) -> bytes:
    """A pickle of a dictionary with an endless key."""
    listed = pickle.dumps([endless(), 1], protocol)
    # a list becomes a dictionary: one instruction makes the container, another one fills it
    return listed.replace(b"]", b"}", 1).removesuffix(b"e.") + b"u."


@pytest.mark.parametrize("protocol", [2, 4])
def test_keys_whose_hash_would_be_endless_are_refused(protocol: int) -> None:
    path = folder()
    data = with_endless_key(protocol)
    for name in ("meta", "000001"):
        kept = (path / f"{name}.pickle.pbz2").read_bytes()
        (path / f"{name}.pickle.pbz2").write_bytes(bz2.compress(data))
        with pytest.raises(DataError, match=r"pbz2 cannot be read .*tuple has more than 10000 values"):
            nasbench201_from_download(path, "made.npz")
        (path / f"{name}.pickle.pbz2").write_bytes(kept)
    made = file()
    with zipfile.ZipFile(made) as archive, zipfile.ZipFile("new.pth", "w") as other:
        for name in archive.namelist():
            other.writestr(name, data if name.endswith("data.pkl") else archive.read(name))
    old = [pickle.dumps(each, 2) for each in (torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True})]
    Path("old.pth").write_bytes(b"".join([*old, data, pickle.dumps([], 2)]))
    for name in ("new.pth", "old.pth"):
        with pytest.raises(DataError, match=rf"{name} cannot be read .*tuple has more than 10000 values"):
            nasbench201_from_download(name, "made.npz", check=False)


def test_archives_that_unpack_to_far_more_than_their_size_are_refused() -> None:
    made = file()
    with zipfile.ZipFile(made) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile("packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
        archive.writestr("made/data/999", bytes(2**22))
    with pytest.raises(DataError, match=r"packed.pth cannot be read .*its parts have \d+ bytes when they are unpacked"):
        nasbench201_from_download("packed.pth", "made.npz", check=False)
    assert nasbench201_from_download(made, "made.npz").is_file()


def test_missing_and_damaged_files_are_named() -> None:
    path = folder()
    cell = path / "000001.pickle.pbz2"
    whole = cell.read_bytes()
    cell.write_bytes(whole[:-9] + bytes(9))
    with pytest.raises(DataError, match="000001.pickle.pbz2 cannot be read"):
        nasbench201_from_download(path, "made.npz")
    cell.unlink()
    with pytest.raises(DataError, match="000001.pickle.pbz2 cannot be read"):
        nasbench201_from_download(path, "made.npz")
    with pytest.raises(DataError, match="none-096897.pth cannot be read"):
        nasbench201_from_download("none-096897.pth", "made.npz")
    with pytest.raises(DataError, match="has no results of all of its 2 cells"):
        nasbench201_from_download(file({"meta_archs": NAMES, "arch2infos": {0: {}}}), "made.npz")
