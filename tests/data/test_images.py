"""Image data modules: what they load, in which order, how often, and what a task sees of it."""

import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lightning_nas.data.augmentation import Cutout, RandomCrop, RandomFlip
from lightning_nas.data.folders import FolderSet
from lightning_nas.data.images import (
    ArrayDataModule,
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FolderDataModule,
)
from lightning_nas.data.sets import ImageSet
from lightning_nas.errors import ConfigError, DataError
from tests.data.fake import Recorder, arrays, cifar, folders, npz, pixels, refused
from tests.helpers import quiet_trainer


def test_digits_are_whole_real_and_split_by_class() -> None:
    data = DigitsDataModule()
    assert (data.num_classes, data.image_shape) == (10, (1, 8, 8))
    assert data.class_names == [str(i) for i in range(10)]
    train, test = data.load_train(), data.load_test()
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.dtype == torch.uint8
    assert int(train.images.max()) == 255
    for part, share in ((train, 0.8), (test, 0.2)):
        counts = torch.bincount(part.labels) / torch.bincount(torch.from_numpy(load_digits().target))
        assert float((counts - share).abs().max()) < 0.01
    both = torch.cat([train.images, test.images]).flatten(1)
    whole = torch.from_numpy(load_digits().images * 255 / 16).round().to(torch.uint8).flatten(1)
    assert sorted(both.tolist()) == sorted(whole.tolist())


def test_arrays_keep_pixels_names_and_statistics(tmp_path: Path) -> None:
    content = arrays()
    data = ArrayDataModule(npz(tmp_path, classes=np.array(["cat", "dog", "owl"])))
    assert (data.num_classes, data.image_shape, data.class_names) == (3, (3, 8, 8), ["cat", "dog", "owl"])
    for part, images in (("train", data.load_train()), ("test", data.load_test())):
        assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), content[f"x_{part}"])
        assert np.array_equal(images.labels.numpy(), content[f"y_{part}"])
    scaled = content["x_train"].astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, scaled.std((0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_is_refused(tmp_path: Path) -> None:
    x = pixels(24)
    x[..., 1] = 51
    refused(ArrayDataModule(npz(tmp_path, x_train=x)), "Channel 1 of the training images is 51 in every pixel")


@pytest.mark.parametrize(
    "change", [lambda x: x / 255, lambda x: x.astype(np.uint16) * 257, lambda x: x.astype(np.int64)]
)
def test_arrays_of_other_depths_become_the_same_images(tmp_path: Path, change: Any) -> None:
    content = arrays()
    data = ArrayDataModule(npz(tmp_path, x_train=change(content["x_train"]), x_test=change(content["x_test"])))
    for part, images in (("train", data.load_train()), ("test", data.load_test())):
        assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), content[f"x_{part}"])


def test_folders_in_memory_and_streamed_are_the_same(tmp_path: Path) -> None:
    images = {f"train/{name}": pixels(4, seed=i) for i, name in enumerate("cab")}
    images |= {f"test/{name}": pixels(4, seed=i) for i, name in enumerate("abc")}
    root = folders(tmp_path / "root", images)
    memory, stream = (FolderDataModule(root, image_size=8, stream=stream) for stream in (None, True))
    assert isinstance(memory.load_train(), ImageSet)
    assert isinstance(stream.load_train(), FolderSet)
    assert memory.class_names == stream.class_names == ["a", "b", "c"]
    assert (memory.mean, memory.std) == (stream.mean, stream.std)
    for part in ("load_train", "load_test"):
        one, two = (getattr(data, part)() for data in (memory, stream))
        (pixels_one, labels_one), (pixels_two, labels_two) = (s.__getitems__([11, 0, 4]) for s in (one, two))
        assert torch.equal(pixels_one, pixels_two)
        assert labels_one.tolist() == labels_two.tolist() == [2, 0, 1]
    original = torch.from_numpy(images["train/a"][0]).permute(2, 0, 1)
    assert torch.equal(memory.load_train()[0][0], original)


def test_folder_images_of_any_size_and_mode_fit(tmp_path: Path) -> None:
    from PIL import Image

    for name, mode, size in (("a", "L", (20, 10)), ("b", "RGBA", (5, 30)), ("b", "P", (8, 8))):
        (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 1).save(tmp_path / "train" / name / f"{mode}.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    data = FolderDataModule(str(tmp_path), image_size=8)
    assert tuple(data.load_train().__getitems__([0, 1, 2])[0].shape) == (3, 3, 8, 8)


def test_workers_decode_what_the_main_process_does(tmp_path: Path) -> None:
    root = folders(tmp_path / "root", {f"train/{name}": pixels(4, seed=i) for i, name in enumerate("ab")})
    seen = []
    for workers in (0, 1):
        data = FolderDataModule(root, image_size=8, stream=True, batch_size=3, num_workers=workers)
        seen.append([(images, labels) for images, labels in data.train_dataloader()])
    for one, two in zip(*seen, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize(("kind", "classes"), [(CIFAR10DataModule, 10), (CIFAR100DataModule, 100)])
def test_cifar_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, classes: int) -> None:
    known = kind(str(tmp_path / "missing"), download=False)
    assert (known.num_classes, known.image_shape) == (classes, (3, 32, 32))  # without files
    files = cifar(tmp_path, monkeypatch, classes)
    data = kind(str(tmp_path), batch_size=4)
    assert data.class_names == [f"name {i}" for i in range(classes)]
    assert np.array_equal(data.load_test().images.permute(0, 2, 3, 1).numpy(), list(files.values())[-1])
    assert len(data.load_train()) == classes * (len(files) - 1)
    assert np.array_equal(data.load_train().images[0].permute(1, 2, 0).numpy(), next(iter(files.values()))[0])
    assert data.mean == list(kind.channel_mean)
    assert data.std == list(kind.channel_std)
    data.prepare_data()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif("LIGHTNING_NAS_DATA" not in os.environ, reason="set LIGHTNING_NAS_DATA to CIFAR's folder")
def test_real_cifar10(tmp_path: Path) -> None:
    folder = os.environ["LIGHTNING_NAS_DATA"]
    path = tmp_path / "cifar10.npz"
    subprocess.run([sys.executable, "read.py", "cifar10", str(path), "2000"], cwd=folder, check=True)
    data = ArrayDataModule(str(path), batch_size=64)
    assert (data.num_classes, data.image_shape) == (10, (3, 32, 32))
    assert data.class_names[:3] == ["airplane", "automobile", "bird"]
    assert torch.bincount(data.train_set.labels).tolist() == [200] * 10
    np.testing.assert_allclose(data.mean, CIFAR10DataModule.channel_mean, atol=0.01)
    np.testing.assert_allclose(data.std, CIFAR10DataModule.channel_std, atol=0.01)
    task = Recorder()
    quiet_trainer(max_epochs=1).fit(task, data)
    images = torch.cat([batch[0] for _, _, batch in task.seen["train"]])
    assert images.shape == (31 * 64, 3, 32, 32)
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02
    changed = Recorder()
    data = ArrayDataModule(str(path), batch_size=64, augmentations=[RandomCrop(), RandomFlip(), Cutout()])
    quiet_trainer(max_epochs=1).fit(changed, data)
    # the same images in the same order, without the 20% that a clipped square of half the side takes
    zero = torch.cat([batch[0] for _, _, batch in changed.seen["train"]]).eq(0).float().mean()
    assert 0.15 < float(zero) < 0.25
    for (_, _, (_, one)), (_, _, (_, two)) in zip(task.seen["train"], changed.seen["train"], strict=True):
        assert torch.equal(one, two)


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
        refused(ArrayDataModule(str(path)), "is not a regular file.*Check the path")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"x_test": None, "y_test": None}, r"lacks \['x_test', 'y_test'\]; it has \['x_train', 'y_train'\]"),
        ({"x_train": pixels(24)[..., 0]}, r"uint8 \(24, 8, 8\); expected \(n, height.*x_train\[\.\.\., None\]"),
        ({"x_train": pixels(24).astype(float)}, r"x_train in .*images\.npz has float64 pixels from 0 to 255; expected"),
        ({"x_train": pixels(24).astype(np.int64) - 128}, "has int64 pixels from -128 to 127; expected 8-bit.*Rescale"),
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


def test_folders_that_are_not_there_or_empty(tmp_path: Path) -> None:
    refused(FolderDataModule(str(tmp_path / "none"), image_size=8), "train is not a folder; expected .*<class>/<image>")
    (tmp_path / "train").mkdir()
    refused(FolderDataModule(str(tmp_path), image_size=8), "train has no folders of classes")
    (tmp_path / "train" / "cat").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    refused(FolderDataModule(str(tmp_path), image_size=8), "train/cat contains no images.*png")
    with pytest.raises(ConfigError, match="image_size is 0"):
        FolderDataModule(str(tmp_path), image_size=0)


def test_folders_of_one_class_and_of_a_class_only_in_test(tmp_path: Path) -> None:
    images = {"train/cat": pixels(4), "train/dog": pixels(4), "test/owl": pixels(2), "test/cat": pixels(2)}
    root = folders(tmp_path / "root", images)
    refused(FolderDataModule(root, image_size=8, batch_size=4), r"test has the classes \['owl'\]", stage="test")
    one = folders(tmp_path / "one", {"train/cat": pixels(4)})
    refused(FolderDataModule(one, image_size=8), r"one class, \['cat'\]")
    refused(FolderDataModule(root, image_size=8, batch_size=9), "has 8 images")


@pytest.mark.parametrize("stream", [False, True])
def test_a_corrupt_image_is_named(tmp_path: Path, stream: bool) -> None:
    root = folders(tmp_path / "root", {"train/cat": pixels(4, size=40), "train/dog": pixels(4, size=40)})
    bad = tmp_path / "root" / "train" / "dog" / "002.png"
    bad.write_bytes(bad.read_bytes()[:900])
    data = FolderDataModule(root, image_size=8, stream=stream, batch_size=8)
    refused(data, r"train/dog/002\.png is not a complete image \(.*Replace or delete it")
    bad.write_text("no image")
    data = FolderDataModule(root, image_size=8, stream=stream, batch_size=8)
    refused(data, r"train/dog/002\.png is not a complete image")


def test_a_corrupt_image_is_named_by_a_worker_too(tmp_path: Path) -> None:
    root = folders(tmp_path / "root", {"train/cat": pixels(4), "train/dog": pixels(4)})
    (tmp_path / "root" / "train" / "dog" / "002.png").write_text("no image")
    with pytest.raises(DataError, match=r"train/dog/002\.png is not a complete image"):
        _ = FolderDataModule(root, image_size=8, num_workers=1).num_classes


@pytest.mark.slow  # torchvision waits between attempts
def test_cifar_missing_damaged_or_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    refused(CIFAR10DataModule(str(tmp_path), download=False), "CIFAR10 could not be.*Set download to true")
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "none.tar.gz").as_uri())
    refused(CIFAR10DataModule(str(tmp_path), download=True), "CIFAR10 could not be read.*none.tar.gz")
    cifar(tmp_path, monkeypatch, 10)
    (tmp_path / CIFAR10.base_folder / "data_batch_3").write_bytes(b"damaged")
    refused(CIFAR10DataModule(str(tmp_path), download=False), "not found or corrupted")


def test_test_is_never_needed_for_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: DigitsDataModule) -> None:
        raise AssertionError("the test set was opened")

    monkeypatch.setattr(DigitsDataModule, "load_test", never)
    data = DigitsDataModule(validation_fraction=0.1)
    quiet_trainer(max_epochs=1, limit_train_batches=1).fit(Recorder(), data)
