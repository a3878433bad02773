"""Small image files of the true layouts, and a module that notes what it is given."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from PIL import Image
from torch import Tensor, nn

from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.errors import DataError
from tests.helpers import quiet_trainer


def pixels(n: int, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random uint8 images (n, size, size, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def arrays(train: int = 24, test: int = 7, kinds: int = 3, **changes: Any) -> dict[str, Any]:
    """What a good npz file holds; a change to None leaves a key out."""
    good = {
        "x_train": pixels(train),
        "y_train": np.arange(train) % kinds,
        "x_test": pixels(test, seed=1),
        "y_test": np.arange(test) % kinds,
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def npz(folder: Path, **changes: Any) -> str:
    """Write a file for ``ArrayDataModule``."""
    path = folder / "images.npz"
    np.savez(path, **arrays(**changes))
    return str(path)


def module(folder: Path, train: int = 24, **options: Any) -> ArrayDataModule:
    """A module of ``train`` images of 3 classes, in batches of 4 unless ``options`` say otherwise."""
    return ArrayDataModule(npz(folder, train=train), **{"batch_size": 4, **options})


def folders(root: Path, images: dict[str, np.ndarray[Any, Any]]) -> str:
    """Write ``root/<key>/<i>.png`` for every image of every key, such as ``train/cat``."""
    for name, batch in images.items():
        (root / name).mkdir(parents=True)
        for i, image in enumerate(batch):
            Image.fromarray(image).save(root / name / f"{i:03d}.png")
    return str(root)


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> dict[str, np.ndarray[Any, Any]]:
    """Write files as of CIFAR-10 or CIFAR-100, ``classes`` images each, and let torchvision expect them."""
    from torchvision import datasets

    reader = datasets.CIFAR10 if classes == 10 else datasets.CIFAR100
    folder = root / reader.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    written, key = {}, "labels" if classes == 10 else "fine_labels"
    for part in ("train_list", "test_list"):
        files = []
        for seed, (name, _) in enumerate(getattr(reader, part)):
            images = pixels(classes, 32, seed=seed)
            written[name] = images
            rows = images.transpose(0, 3, 1, 2).reshape(classes, -1)
            files.append(write(name, {"data": rows, key: list(range(classes))}))
        monkeypatch.setattr(reader, part, files)
    meta = reader.meta
    md5 = write(meta["filename"], {meta["key"]: [f"name {i}" for i in range(classes)]})[1]
    monkeypatch.setattr(reader, "meta", {**meta, "md5": md5})
    return written


def rows(images: Tensor) -> list[list[float]]:
    """Sorted pixels of the images, to compare sets of them."""
    return sorted(images.flatten(1).tolist())


def half(data: HalvesDataModule, name: str) -> tuple[Tensor, Tensor]:
    """All images and labels of a half."""
    part = data.half(name)
    batch: Any = part.__getitems__(list(range(len(part))))
    return batch[0], batch[1]


def nearest(image: Tensor, images: Tensor) -> int:
    """Where in ``images`` the image is."""
    return int((images - image).abs().flatten(1).sum(1).argmin())


class Recorder(LightningModule):
    """Keeps every batch; trains one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[Any]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Note the epoch, the batch's number, and the batch."""
        self.seen["train"].append((self.current_epoch, batch_idx, batch))
        return self.weight**2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Note the batch."""
        self.seen["val"].append(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Note the batch."""
        self.seen["test"].append(batch)

    def predict_step(self, batch: Any, batch_idx: int) -> int:
        """Note the batch."""
        self.seen["predict"].append(batch)
        return batch_idx

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def refused(data: ImageDataModule, text: str, stage: str = "fit") -> str:
    """Check that ``data`` raises a DataError that matches ``text`` before the first batch."""
    task, trainer = Recorder(), quiet_trainer(max_epochs=1)
    with pytest.raises(DataError, match=text) as caught:
        trainer.fit(task, data) if stage == "fit" else trainer.test(task, data, verbose=False)
    assert not any(task.seen.values())
    return str(caught.value)


def built_by_command_line(section: dict[str, Any]) -> Any:
    """The data module that Lightning's command line makes of the section ``data`` of a configuration."""
    config = Path("config.yaml")
    config.write_text(json.dumps({"trainer": {"logger": False}, "data": section}))
    cli = LightningCLI(
        Recorder,
        LightningDataModule,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
        args=["--config", str(config)],
    )
    return cli.datamodule
