"""What the log says about images that should not be there."""

from pathlib import Path

import numpy as np
import pytest

from lightning_nas.data.images import ArrayDataModule, DigitsDataModule, FolderDataModule
from tests.data.fake import folders, npz, pixels


def test_test_images_that_were_trained_on_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = pixels(24)
    data = ArrayDataModule(npz(tmp_path, x_train=x, x_test=np.concatenate([pixels(4, seed=1), x[:3]])))
    _ = data.train_set
    assert not caplog.text
    for _ in range(2):
        data.test_dataloader()
    assert caplog.text.count("3 of 7 test images are also training images") == 1


def test_equal_images_with_other_labels_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = pixels(24)
    x[3], x[6], x[10] = x[0], x[0], x[9]  # 0, 3 and 6 are of one class, 9 and 10 of two
    data = ArrayDataModule(npz(tmp_path, x_train=x))
    for _ in range(2):
        _ = data.train_set
    assert caplog.text.count("2 of 24 training images equal an image with another label") == 1


def test_files_in_folders_are_compared_by_their_pixels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = {"train/a": pixels(4), "train/b": pixels(2), "test/a": pixels(1), "test/b": pixels(2, seed=1)}
    data = FolderDataModule(folders(tmp_path / "root", images), image_size=8)
    data.test_dataloader()
    assert "4 of 6 training images equal an image with another label" in caplog.text
    assert "1 of 3 test images are also training images" in caplog.text


def test_very_dark_images_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = pixels(24).astype(np.uint16) * 16  # 12 bits in files of 16
    _ = ArrayDataModule(npz(tmp_path, x_train=deep)).train_set
    assert "The brightest pixel of the training images is 16 of 255" in caplog.text


def test_nothing_is_said_of_good_images(caplog: pytest.LogCaptureFixture) -> None:
    DigitsDataModule().test_dataloader()
    assert not caplog.text
