"""Folders by other names, with validation images, undivided, or listed in a table."""

import csv
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import FolderDataModule
from lightning_nas.errors import ConfigError, DataError
from tests.data.fake import Recorder, folders, pixels, refused
from tests.helpers import quiet_trainer


def data(root: Path, **options: Any) -> FolderDataModule:
    return FolderDataModule(str(root), image_size=8, **{"batch_size": 2, **options})


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with ``train``, ``val`` and ``test``."""
    parts = {"train": 6, "val": 4, "test": 3}
    images = {f"{part}/{name}": pixels(n, seed=n) for part, n in parts.items() for name in ("cat", "dog")}
    return Path(folders(tmp_path / "root", images))


def test_val_is_the_validation_set_of_a_training(three: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = data(three, validation_fraction=0.5)
    assert [len(found.train_set), len(found.validation_set)] == [12, 8]
    assert "8 validation images that come with the data" in caplog.text
    assert found.validation_set.class_names == ["cat", "dog"]
    task, trainer = Recorder(), quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(task, data(three))
    assert [len(task.seen["train"]), len(task.seen["val"])] == [6, 4]
    assert len(data(three, validation=None, validation_fraction=0.5).validation_set) == 6
    with pytest.raises(DataError, match="no validation set"):
        _ = data(three, validation=None).validation_set


def test_val_is_the_search_half_of_a_search(three: Path) -> None:
    halves = HalvesDataModule(data(three), batch_size=2)
    assert [len(halves.half(name)) for name in ("train", "search")] == [12, 8]
    halves.setup("fit")
    batches = list(halves.train_dataloader())
    assert len(batches) == 6  # the search half starts again
    assert len(halves.fixed_batch("search", 8, 0)[1]) == 8
    split = HalvesDataModule(data(three), batch_size=2, search_fraction=0.5)
    assert [len(split.half(name)) for name in ("train", "search")] == [6, 6]
    without = HalvesDataModule(data(three, validation=None), batch_size=2)
    assert [len(without.half(name)) for name in ("train", "search")] == [6, 6]


def test_a_search_half_without_a_class_is_refused(three: Path) -> None:
    for path in (three / "val" / "dog").iterdir():
        path.unlink()
    (three / "val" / "dog").rmdir()
    with pytest.raises(DataError, match=r"lack the classes \['dog'\].*search_fraction"):
        HalvesDataModule(data(three), batch_size=2).half("search")
    with pytest.raises(DataError, match=r"lack the classes \['dog'\]"):
        HalvesDataModule(data(three), batch_size=2).check()


def test_validation_images_that_are_training_images_are_counted(three: Path, caplog: pytest.LogCaptureFixture) -> None:
    (three / "val" / "cat" / "same.png").write_bytes((three / "train" / "cat" / "000.png").read_bytes())
    _ = data(three).validation_set
    assert "1 of 9 validation images are also training images" in caplog.text


def test_folders_may_have_other_names(three: Path) -> None:
    for old, new in (("train", "learn"), ("val", "dev"), ("test", "exam")):
        (three / old).rename(three / new)
    found = data(three, train="learn", validation="dev", test="exam")
    assert [len(x) for x in (found.train_set, found.validation_set, found.load_test())] == [12, 8, 6]
    refused(data(three), "root has no folder 'train', but images.*test_fraction.*set train to it")


def test_an_undivided_folder_is_divided_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = Path(folders(tmp_path / "root", {"cat": pixels(10), "dog": pixels(10, seed=1)}))
    refused(data(root), "test_fraction")
    first = data(root, test_fraction=0.2)
    assert [len(first.train_set), len(first.load_test())] == [16, 4]
    assert torch.bincount(first.load_test().labels).tolist() == [2, 2]
    with (root / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows if row["label"] == "dog"] == [f"dog/{i:03d}.png" for i in range(10)]
    before = {row["file_name"] for row in rows if row["split"] == "test"}
    folders(root / "more", {"x": pixels(1)})
    (root / "more" / "x" / "000.png").rename(root / "cat" / "0000.png")
    caplog.set_level(logging.WARNING)
    other = data(root, test_fraction=0.9, split_seed=5)  # what is stored stays
    assert {path.relative_to(root).as_posix() for path in other.list_test().files} == before
    assert "1 images in" in caplog.text
    assert "not used" in caplog.text
    # names may be absolute, or have more slashes and dots than they need
    odd = [f"{root / rows[0]['file_name']}", f"cat/..//{rows[1]['file_name']}", f"./{rows[2]['file_name']}"]
    with (root / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows([*({**row, "file_name": name} for row, name in zip(rows, odd, strict=False)), *rows[3:]])
    caplog.clear()
    assert len(data(root).train_set) == 16
    assert "1 images in" in caplog.text


def test_a_table_lists_images_in_any_folders(tmp_path: Path) -> None:
    root = Path(folders(tmp_path / "root", {"all": pixels(8)}))
    rows = [f"all/{i:03d}.png,{'ab'[i % 2]},{('train', 'train', 'validation', 'test')[i // 2]}" for i in range(8)]
    (root / "labels.csv").write_text("\n".join(["file_name,label,split", *rows]), encoding="utf-8-sig")  # as Excel
    found = data(root, split_file="labels.csv")
    assert [len(x) for x in (found.train_set, found.validation_set, found.load_test())] == [4, 2, 2]
    assert found.class_names == ["a", "b"]
    assert found.check(test=True)
    elsewhere = data(root, split_file=str((root / "labels.csv").rename(tmp_path / "labels.csv")))
    assert torch.equal(elsewhere.train_set.labels, found.train_set.labels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("a,b\n1,2\n", "Row 2 of .*Expected columns file_name, label, split"),
        ("file_name,label,split\ncat/000.png,cat,tests\n", "Row 2 of .*train, validation, test"),
        (
            "file_name,label,split\ncat/000.png,cat,train\ncat/9.png,cat,train\n",
            r"1 of 2 files in .* such as cat/9\.png",
        ),
        ("file_name,label,split\ncat/000.png,cat,test\n", "has no row with the split 'train'"),
        ("file_name,label,split\n\0\n", "Row 2 of|not a table"),
    ],
)
def test_a_damaged_table_is_refused(text: str, said: str, tmp_path: Path) -> None:
    root = Path(folders(tmp_path / "root", {"cat": pixels(2)}))
    (root / "split.csv").write_text(text)
    refused(data(root), said)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_division_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    root = Path(folders(tmp_path / "root", {"cat": pixels(10), "dog": pixels(10)}))
    root.chmod(0o500)
    refused(data(root, test_fraction=0.2), "cannot be stored.*Set split_file to a path elsewhere")
    root.chmod(0o700)
    with pytest.raises(ConfigError, match=r"test_fraction is 1\.0"):
        data(root, test_fraction=1.0)


def test_a_check_decodes_nothing(three: Path) -> None:
    for path in three.rglob("*.png"):
        path.write_bytes(b"no image")
    assert data(three).check(test=True)
    assert HalvesDataModule(data(three), batch_size=2).check(test=True)
    with pytest.raises(DataError, match="training set has 12 images for 2 process.*at most 6"):
        data(three, batch_size=7).check(processes=2)
    with pytest.raises(DataError, match="search half has 8 images.*at most 8"):
        HalvesDataModule(data(three), batch_size=9).check()
    with pytest.raises(DataError, match="exam is not a folder"):
        data(three, test="exam").check(test=True)
