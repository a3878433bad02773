"""Results by test image, as a report reads them."""

from pathlib import Path

import torch

from lightning_nas.files.artifacts import write_tensors
from lightning_nas.report.tested import ByImage, read_tested


def write(path: Path, classes: int = 3) -> Path:
    labels = torch.arange(30) % classes
    predicted = labels.clone()
    predicted[:4] = (labels[:4] + 1) % classes
    pictures = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    return write_tensors(
        path / "test_images.safetensors",
        {
            **{"labels": labels, "predicted": predicted, "confidence": torch.full((30,), 0.75)},
            **{"mistakes": torch.tensor([3, 0]), "pictures": pictures},
        },
    )


def test_confusions_classes_and_mistakes(tmp_path: Path) -> None:
    found = read_tested(write(tmp_path), ["a", "b"])
    assert isinstance(found, ByImage)
    assert found.names == ["a", "b", "2"]
    assert found.confusion == [[8, 2, 0], [0, 9, 1], [1, 0, 9]]
    assert [(each.name, each.count, each.accuracy) for each in found.classes] == [
        ("a", 10, 0.8),
        ("b", 10, 0.9),
        ("2", 10, 0.9),
    ]
    assert found.confusions == [("a", "b", 2), ("b", "2", 1), ("2", "a", 1)]
    assert [(each.index, each.truth, each.said) for each in found.mistakes] == [(3, "a", "b"), (0, "a", "b")]
    assert found.mistakes[0].src.startswith("data:image/png;base64,")
    assert found.small
    many = read_tested(write(tmp_path, 25), [])
    assert isinstance(many, ByImage)
    assert not many.small


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    assert "has no train/test_images.safetensors" in str(read_tested(folder / "test_images.safetensors", []))
    path = write_tensors(folder / "test_images.safetensors", {"labels": torch.zeros(2)})
    assert read_tested(path, []) == "train/test_images.safetensors is damaged."
    path.write_bytes(b"broken")
    assert read_tested(path, []) == "train/test_images.safetensors is damaged."
