"""Unusable data fails before training, with what was received, what was expected and the repair."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_nas.data.images import (
    ArrayDataModule,
    CIFAR10DataModule,
    DigitsDataModule,
    FolderDataModule,
    ImageDataModule,
    ImageSet,
)
from lightning_nas.data.loaders import loader
from lightning_nas.errors import ConfigError, DataError
from tests.data.fake import Recorder, cifar, folders, module, npz, pixels
from tests.helpers import quiet_trainer


def refused(data: ImageDataModule, text: str, stage: str = "fit") -> str:
    """Check that ``data`` raises a DataError that matches ``text`` before the first batch."""
    task, trainer = Recorder(), quiet_trainer(max_epochs=1)
    with pytest.raises(DataError, match=text) as caught:
        trainer.fit(task, data) if stage == "fit" else trainer.test(task, data, verbose=False)
    assert not any(task.seen.values())
    return str(caught.value)


def foreign(path: Path) -> None:
    """A text file."""
    path.write_text("not an archive")


def empty(path: Path) -> None:
    """No bytes."""
    path.write_bytes(b"")


def one_array(path: Path) -> None:
    """A good file of another kind."""
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path: Path) -> None:
    """A pickle, which must not be executed."""
    path.write_bytes(pickle.dumps({"x_train": 1}))


def objects(path: Path) -> None:
    """An npz file with a pickle inside."""
    np.savez(path, x_train=np.array([{}]), y_train=np.arange(1), x_test=np.arange(1), y_test=np.arange(1))


def cut(path: Path) -> None:
    """The end is missing."""
    path.write_bytes(Path(npz(path.parent)).read_bytes()[:-200])


def damaged(path: Path) -> None:
    """Bytes in the middle are wrong."""
    whole = bytearray(Path(npz(path.parent)).read_bytes())
    whole[500:600] = b"x" * 100
    path.write_bytes(whole)


def no_arrays(path: Path) -> None:
    """A zip file of something else."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train", "text")


@pytest.mark.parametrize("write", [foreign, empty, one_array, pickled, objects, cut, damaged, no_arrays])
def test_files_that_are_no_npz(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "bad.npz"
    write(path)
    message = refused(ArrayDataModule(str(path)), r"bad\.npz .*Expected an npz file with x_train, y_train")
    assert "Traceback" not in message


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npz", tmp_path):
        refused(ArrayDataModule(str(path)), "is no file.*Check the path")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"x_test": None, "y_test": None}, r"lacks \['x_test', 'y_test'\]; it has \['x_train', 'y_train'\]"),
        ({"x_train": pixels(24)[..., 0]}, r"uint8 \(24, 8, 8\); expected uint8 .*x_train\[\.\.\., None\]"),
        ({"x_train": pixels(24) / 255}, r"float64 \(24, 8, 8, 3\); expected uint8"),
        ({"x_train": pixels(24).astype(np.int64)}, "int64.*expected uint8"),
        ({"x_train": pixels(24).reshape(24, -1)}, r"\(24, 192\); expected"),
        ({"x_train": pixels(24).transpose(0, 3, 1, 2)}, r"channels first.*transpose\(0, 2, 3, 1\)"),
        ({"x_train": pixels(24)[:, :0]}, "none of the last three empty"),
        ({"y_train": np.arange(24) / 8}, "y_train.* is float64; expected integers"),
        ({"y_train": np.array(["cat"] * 24)}, "y_train.* is <U3; expected integers"),
        ({"y_train": np.arange(24) % 2 == 0}, "y_train.* is bool; expected integers"),
        ({"y_train": np.arange(24) % 3 - 1}, "go down to -1; expected 0 to 1"),
        ({"y_train": np.arange(23) % 3}, r"shape \(23,\) for 24 images; expected \(24,\)"),
        ({"y_train": np.arange(24)[:, None] % 3}, r"shape \(24, 1\) for 24 images"),
        ({"y_train": np.zeros(24, int)}, r"one class, \['0'\]; expected at least two"),
        ({"y_train": np.arange(24) % 3 * 2}, r"no image of the classes \['1', '3'\] .*without gaps"),
        ({"classes": np.array(["a", "b"])}, "go up to 2, but the training set has 2 classes"),
        ({"classes": np.array(["a", "b", "c", "d"])}, r"no image of the classes \['d'\]"),
        ({"x_train": pixels(0), "y_train": np.zeros(0, int)}, "is empty; expected images of at least two"),
        (
            {"x_train": pixels(3), "y_train": np.arange(3)},
            "has 3 images for 1 process.*batch of 4.*at most 3",
        ),
    ],
)
def test_bad_training_arrays(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    refused(ArrayDataModule(npz(tmp_path, **changes), batch_size=4), text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"y_test": np.arange(7)}, "go up to 6, but the training set has 3 classes"),
        ({"y_test": np.arange(6) % 3}, r"shape \(6,\) for 7 images"),
        ({"x_test": pixels(7, size=9)}, r"\(3, 9, 9\), the training images \(3, 8, 8\)"),
        ({"x_test": pixels(7, channels=1)}, r"\(1, 8, 8\), the training images \(3, 8, 8\)"),
        ({"x_test": pixels(0), "y_test": np.zeros(0, int)}, "test set is empty"),
    ],
)
def test_bad_test_arrays_fail_at_test(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    data = ArrayDataModule(npz(tmp_path, **changes), batch_size=4)
    quiet_trainer(max_epochs=1).fit(Recorder(), data)  # not opened
    refused(data, text, stage="test")


def test_too_few_images_for_the_processes() -> None:
    class Process:
        """What a loader asks of a trainer."""

        global_rank, world_size = 0, 4

    images = ImageSet(torch.zeros(11, 1, 2, 2, dtype=torch.uint8), torch.arange(11) % 2)
    options: dict[str, Any] = {"seed": 0, "shuffle": True, "num_workers": 0}
    with pytest.raises(DataError, match=r"search half has 11 images for 4 process\(es\).*of 3 each.*at most 2"):
        loader(images, 3, Process(), drop_last=True, name="search half", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="drop_last=True"):
        loader(images, 3, None, drop_last=False, **options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"validation_fraction": 1.0}, ConfigError, "validation_fraction is 1.0"),
        ({"train_limit": 0}, ConfigError, "train_limit is 0"),
        ({"train_limit": 2}, DataError, "no image of the classes.*Set train_limit to at least 3"),
        ({"validation_fraction": 0.01}, DataError, "0.01 of 24 images is no image"),
        ({"validation_fraction": 0.99}, DataError, "Lower validation_fraction, which is 0.99"),
    ],
)
def test_impossible_parts(tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _ = module(tmp_path, **options).train_set


def test_validate_without_a_validation_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation_fraction is 0\. Set it above 0"):
        quiet_trainer().validate(Recorder(), module(tmp_path), verbose=False)


def test_folders_that_are_not_there_or_empty(tmp_path: Path) -> None:
    refused(FolderDataModule(str(tmp_path / "none"), 8), "train is no folder; expected .*<class>/<image>")
    (tmp_path / "train").mkdir()
    refused(FolderDataModule(str(tmp_path), 8), "train has no folders of classes")
    (tmp_path / "train" / "cat").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    refused(FolderDataModule(str(tmp_path), 8), "train/cat holds no images.*png")
    with pytest.raises(ConfigError, match="image_size is 0"):
        FolderDataModule(str(tmp_path), 0)


def test_folders_of_one_class_and_of_a_class_only_in_test(tmp_path: Path) -> None:
    images = {"train/cat": pixels(4), "train/dog": pixels(4), "test/owl": pixels(2), "test/cat": pixels(2)}
    root = folders(tmp_path / "root", images)
    refused(FolderDataModule(root, 8, batch_size=4), r"test has the classes \['owl'\]", stage="test")
    one = folders(tmp_path / "one", {"train/cat": pixels(4)})
    refused(FolderDataModule(one, 8), r"one class, \['cat'\]")
    refused(FolderDataModule(root, 8, batch_size=9), "has 8 images")


@pytest.mark.parametrize("stream", [False, True])
def test_a_corrupt_image_is_named(tmp_path: Path, stream: bool) -> None:
    root = folders(tmp_path / "root", {"train/cat": pixels(4, size=40), "train/dog": pixels(4, size=40)})
    bad = tmp_path / "root" / "train" / "dog" / "002.png"
    bad.write_bytes(bad.read_bytes()[:900])
    data = FolderDataModule(root, 8, stream=stream, batch_size=8)
    refused(data, r"train/dog/002\.png is no complete image \(.*Replace or delete it")
    bad.write_text("no image")
    data = FolderDataModule(root, 8, stream=stream, batch_size=8)
    refused(data, r"train/dog/002\.png is no complete image")


def test_a_corrupt_image_is_named_by_a_worker_too(tmp_path: Path) -> None:
    root = folders(tmp_path / "root", {"train/cat": pixels(4), "train/dog": pixels(4)})
    (tmp_path / "root" / "train" / "dog" / "002.png").write_text("no image")
    with pytest.raises(DataError, match=r"train/dog/002\.png is no complete image"):
        _ = FolderDataModule(root, 8, num_workers=1).num_classes


def test_cifar_missing_damaged_or_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    refused(CIFAR10DataModule(str(tmp_path), download=False), "CIFAR10 could not be.*Set download to true")
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "none.tar.gz").as_uri())
    refused(CIFAR10DataModule(str(tmp_path), download=True), "CIFAR10 could not be read.*none.tar.gz")
    cifar(tmp_path, monkeypatch, 10)
    (tmp_path / CIFAR10.base_folder / "data_batch_3").write_bytes(b"damaged")
    refused(CIFAR10DataModule(str(tmp_path), download=False), "not found or corrupted")


def test_image_sets_check_themselves() -> None:
    good = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"shape \(1, 3, 3\); expected 4 axes"):
        ImageSet(good[0], torch.zeros(1, dtype=torch.int64))
    with pytest.raises(DataError, match="torch.int32; expected uint8"):
        ImageSet(good.int(), torch.zeros(2, dtype=torch.int64))
    for labels in (torch.zeros(2), torch.zeros(2, dtype=torch.bool)):
        with pytest.raises(DataError, match="expected integers from 0"):
            ImageSet(good, labels)


def test_test_is_never_needed_for_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: DigitsDataModule) -> None:
        raise AssertionError("the test set was opened")

    monkeypatch.setattr(DigitsDataModule, "load_test", never)
    data = DigitsDataModule(validation_fraction=0.1)
    quiet_trainer(max_epochs=1, limit_train_batches=1).fit(Recorder(), data)
