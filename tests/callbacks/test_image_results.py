"""The results of every test image."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.callbacks import ImageResults
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import read_tensors
from lightning_nas.tasks.train import TrainTask
from tests.helpers import quiet_trainer


class Bright(LightningDataModule):
    """Images whose mean decides between three classes, normalized; some labels are wrong."""

    class_names = ("a", "b", "c")
    num_classes = 3
    image_shape = (1, 4, 4)
    mean = (0.5,)
    std = (0.5,)

    def __init__(self) -> None:
        super().__init__()
        self.pixels = torch.tensor([0.0, 0.5, 1.0, 0.9, 0.1, 0.55, 1.0]).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
        self.labels = torch.tensor([0, 1, 0, 2, 0, 1, 1])

    def test_dataloader(self) -> Any:
        return DataLoader(TensorDataset((self.pixels - 0.5) / 0.5, self.labels), batch_size=3)


class Threshold(nn.Module):
    """Says class 2 for bright images, 1 for gray ones and 0 for dark ones."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return self.scale * torch.stack([-4 * mean, 1 - 4 * mean.abs(), 4 * mean], 1)


def results(pictures: int, path: Path) -> dict[str, Tensor]:
    task = TrainTask(
        None,
        optimizer=lambda p: torch.optim.SGD(p, 0.1),
        network=Threshold(),
        num_classes=3,
        image_shape=(1, 4, 4),
    )
    data = Bright()
    quiet_trainer(callbacks=[ImageResults(str(path), pictures)]).test(task, datamodule=data, verbose=False)
    return read_tensors(path, repair="")


def test_every_image_is_recorded_in_order_with_the_worst_mistakes(tmp_path: Path) -> None:
    found = results(1, tmp_path / "a.safetensors")
    data = Bright()
    assert found["labels"].equal(data.labels)
    assert found["predicted"].tolist() == [0, 1, 2, 2, 0, 1, 2]
    assert found["confidence"].shape == (7,)
    assert found["mistakes"].tolist() == [2]  # as confident as the last one, and before it
    assert found["pictures"].equal(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8))
    assert results(5, tmp_path / "b.safetensors")["mistakes"].tolist() == [2, 6]
    assert set(results(0, tmp_path / "c.safetensors")) == {"labels", "predicted", "confidence"}


def test_a_negative_number_of_pictures_is_refused() -> None:
    with pytest.raises(ConfigError, match="pictures is -1"):
        ImageResults("a.safetensors", -1)
