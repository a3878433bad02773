"""Preprocessing, accuracy and latency of files on the images of data modules."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_nas.data import ArrayDataModule, ClassBalancedDataModule, DigitsDataModule, FolderDataModule
from lightning_nas.data.sets import Batch
from lightning_nas.errors import DataError, ExportError
from lightning_nas.export.formats import Description
from lightning_nas.export.measured import (
    LATENCY_BATCHES,
    LEVELS,
    check_preprocessing,
    held_out,
    measure_accuracies,
    measure_latencies,
)
from tests.data.fake import folders, module, npz


def describe(data: Any, **changes: Any) -> Description:
    known = {"mean": tuple(data.mean), "std": tuple(data.std), "resize": data.resize}
    return Description(data.image_shape, tuple(data.class_names), header="", **{**known, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> FolderDataModule:
    """Photographs of different sizes."""
    generator = np.random.default_rng(0)
    sizes = [(30, 44), (61, 20), (12, 12), (9, 15)]
    images = {
        f"train/{name}": [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes] for name in "ab"
    }
    return FolderDataModule(folders(tmp_path / "photos", images), image_size=12)  # type: ignore[arg-type]


def test_images_of_any_size_differ_by_the_rounding_of_pillow(folder: FolderDataModule) -> None:
    examples = folder.examples(6)
    assert {tuple(image.shape) for image in examples.originals} >= {(3, 30, 44), (3, 61, 20)}
    assert examples.prepared.shape == (6, 3, 12, 12)
    assert 0 < check_preprocessing(describe(folder), examples) <= LEVELS
    assert (folder.resize, folder.title) == ("bilinear", "photos")


def test_downsampled_images_are_averaged(tmp_path: Path) -> None:
    data = ArrayDataModule(npz(tmp_path), image_size=3)
    examples = data.examples(8)
    assert next(iter(examples.originals)).shape[1:] != (3, 3)
    assert 0 < check_preprocessing(describe(data), examples) <= 0.51
    assert data.resize == "area"
    with pytest.raises(ExportError, match="of 255 levels"):
        check_preprocessing(describe(data, resize="bilinear"), examples)


@pytest.mark.parametrize("wrap", [lambda data: data, ClassBalancedDataModule])
def test_images_of_their_own_size_do_not_differ(wrap: Any) -> None:
    data = wrap(DigitsDataModule())
    assert check_preprocessing(describe(data), data.examples(32)) < 1e-3
    assert (data.resize, data.title) == ("bilinear", "scikit-learn digits")


class Inverted(DigitsDataModule):
    """Does something that no file knows of."""

    def prepare(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        images, labels = super().prepare(batch, generator)
        return -images, labels


def test_data_that_are_prepared_in_another_way_are_noticed() -> None:
    data = Inverted()
    with pytest.raises(ExportError, match=r"differs from the data module's by \S+ of 255 levels.*raw_images"):
        check_preprocessing(describe(data), data.examples(8))


def test_data_of_another_training_are_noticed(tmp_path: Path) -> None:
    digits, other = DigitsDataModule(), module(tmp_path)
    with pytest.raises(ExportError, match="of 255 levels"):
        check_preprocessing(describe(digits, mean=(0.9,)), digits.examples(8))
    with pytest.raises(ExportError, match="Give the data of the training"):
        check_preprocessing(describe(digits), other.examples(8))


class Levels(nn.Module):
    """Predicts by the mean of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-x.float().mean((1, 2, 3)), x.float().mean((1, 2, 3))], 1)


def test_files_are_compared_with_the_network_on_test_images(tmp_path: Path) -> None:
    images = np.repeat([0, 255] * 4, 16).reshape(8, 4, 4, 1).astype(np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1, 1, 0])
    path = tmp_path / "images.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    data = ArrayDataModule(str(path), batch_size=3)
    seen = []

    def raw(batch: Tensor) -> Tensor:
        seen.append(batch.dtype)
        return Levels()(batch.float() - 128)

    files = {"right": raw, "always 1": lambda batch: torch.tensor([[0.0, 1.0]]).expand(len(batch), 2)}
    part, count, accuracy, found = measure_accuracies(Levels(), files, data, raw=True)
    assert (part, count, accuracy) == ("test", 8, 0.75)
    assert set(seen) == {torch.uint8}
    assert [(each.file, each.accuracy, each.changed) for each in found] == [("right", 0.75, 0), ("always 1", 0.5, 4)]
    floats = measure_accuracies(Levels(), {"same": Levels()}, data, raw=False)
    assert floats[3][0].changed == 0


def test_without_test_images_those_of_the_validation_count(folder: FolderDataModule) -> None:
    with pytest.raises(DataError):
        held_out(folder)
    folder.validation_fraction = 0.25
    part, batches = held_out(FolderDataModule(str(folder.root), image_size=12, validation_fraction=0.25))
    assert part == "validation"
    assert sum(len(labels) for _, labels in batches) == 2


@pytest.mark.parametrize("resize", ["bilinear", None])
def test_latencies_are_of_images_of_the_networks_size(resize: str | None) -> None:
    shapes: list[Any] = []

    def file(images: Tensor) -> Tensor:
        shapes.append((images.dtype, tuple(images.shape)))
        return images

    description = Description((1, 8, 8), ("a", "b"), (0.5,), (0.2,), "", resize)
    (found,) = measure_latencies({"network.py": file}, description)
    assert found.file == "network.py"
    assert list(found.milliseconds) == list(LATENCY_BATCHES)
    assert all(value > 0 for value in found.milliseconds.values())
    kind = torch.float32 if resize is None else torch.uint8
    assert set(shapes) == {(kind, (size, 1, 8, 8)) for size in LATENCY_BATCHES}
