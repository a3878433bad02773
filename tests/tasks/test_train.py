import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.distill.convnet import ConvNet
from lightning_nas.errors import ArchitectureError, ArtifactError, CheckpointError, ConfigError, DataError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.train import TrainTask
from tests.genotypes import DARTS_V2
from tests.helpers import quiet_trainer


def make(architecture: str = DARTS_V2, **options: object) -> TrainTask:
    defaults: dict[str, object] = {
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "channels": 4,
        "cells": 3,
        "num_classes": 3,
        "image_shape": (3, 8, 8),
    }
    return TrainTask(architecture, **{**defaults, **options})  # type: ignore[arg-type]


class Stripes(LightningDataModule):
    """Three classes that a small network tells apart: which channel is bright."""

    class_names = ("a", "b", "c")
    mean = (0.5, 0.5, 0.5)
    std = (0.2, 0.2, 0.2)

    def loader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(24) % 3
        images = torch.randn(24, 3, 8, 8, generator=generator) * 0.3
        images[torch.arange(24), labels] += 2
        return DataLoader(TensorDataset(images, labels), batch_size=12)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def test_training_learns_and_logs_every_split() -> None:
    task = make()
    trainer = quiet_trainer(max_epochs=15)
    data = Stripes()
    trainer.fit(task, datamodule=data)
    metrics = trainer.callback_metrics
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= metrics.keys()
    assert metrics["train/accuracy"] > 0.9
    (tested,) = trainer.test(task, datamodule=data, verbose=False)
    logits = torch.cat([task.eval()(x) for x, _ in data.loader()])
    truth = torch.cat([y for _, y in data.loader()])
    assert tested["test/accuracy"] == pytest.approx(float((logits.argmax(1) == truth).float().mean()))
    probabilities = torch.cat(trainer.predict(task, datamodule=data))  # type: ignore[arg-type]
    torch.testing.assert_close(probabilities, logits.softmax(1))


def test_dropped_paths_rise_linearly() -> None:
    seen = []

    class Recorded(TrainTask):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(outputs, batch, batch_idx)
            seen.append(self.network.drop)

    task = Recorded(
        DARTS_V2,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        channels=4,
        cells=3,
        drop_path=0.2,
        num_classes=3,
        image_shape=(3, 8, 8),
    )
    trainer = quiet_trainer(max_epochs=3, limit_val_batches=0, limit_train_batches=2)
    trainer.fit(task, datamodule=Stripes())
    assert seen == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16, 0.2])


def test_dropped_paths_need_a_length() -> None:
    task = make(drop_path=0.2)
    with pytest.raises(ConfigError, match=r"max_epochs is -1, but drop_path grows to 0\.2"):
        quiet_trainer(max_time={"seconds": 9}).fit(task, datamodule=Stripes())


def test_the_auxiliary_loss_is_added_with_its_weight() -> None:
    task = make(auxiliary_weight=0.4, image_shape=(3, 32, 32))
    batch = (torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    logged: dict[str, torch.Tensor] = {}
    task.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign, assignment]
    task.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    torch.manual_seed(0)
    loss = task.training_step(batch, 0)
    torch.manual_seed(0)
    logits, auxiliary = task.network.forward_auxiliary(batch[0])
    cross_entropy = torch.nn.functional.cross_entropy
    torch.testing.assert_close(loss, cross_entropy(logits, batch[1]) + 0.4 * cross_entropy(auxiliary, batch[1]))


def test_architectures_come_from_files_too(tmp_path: Path) -> None:
    path = DARTSSpace().parse(DARTS_V2).save(tmp_path / "architecture.json")
    assert make(str(path)).architecture == make(DARTS_V2).architecture
    with pytest.raises(ArtifactError, match="does not exist"):
        make(str(tmp_path / "other.json"))
    with pytest.raises(ArchitectureError, match="genotype"):
        make("Genotype(normal=3)")
    assert make(f"DARTS_V2 = {DARTS_V2}").architecture == make(DARTS_V2).architecture
    with pytest.raises(ArtifactError) as caught:
        make("a" * 5000)
    assert len(str(caught.value)) < 600
    with pytest.raises(DataError, match="too small"):
        make(image_shape=(3, 2, 2))


class Numbered(Stripes):
    """Says how many classes it has, and how large its images are."""

    num_classes = 12
    image_shape = (3, 8, 8)


def test_a_network_for_other_data_is_refused() -> None:
    trainer = quiet_trainer(max_epochs=1)
    with pytest.raises(ConfigError, match=r"num_classes is 3 here and 12 in the data\. Make it with num_classes and"):
        trainer.fit(make(), datamodule=Numbered())
    with pytest.raises(ConfigError, match=r"image_shape is \(3, 16, 16\) here and \(3, 8, 8\) in the data"):
        trainer.fit(make(num_classes=12, image_shape=(3, 16, 16)), datamodule=Numbered())
    trainer.fit(make(num_classes=12), datamodule=Numbered())


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_labels_without_an_output_are_refused(command: str) -> None:
    trainer = quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(DataError, match="labels from 0 to 2; the network has 2 outputs, for labels from 0 to 1"):
        getattr(trainer, command)(make(num_classes=2), datamodule=Stripes())


def make_for_network(**options: Any) -> TrainTask:
    given: dict[str, Any] = {"network": lambda shape, classes: ConvNet(shape, classes, width=4, depth=1), **options}
    sizes: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 8, 8)}
    return TrainTask(given.pop("architecture", None), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **given, **sizes)


def test_a_network_of_its_own_is_trained_and_resumed_but_not_exported(tmp_path: Path) -> None:
    data = Stripes()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(make_for_network(), datamodule=data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert "export" not in content
    resumed = make_for_network()
    quiet_trainer(max_epochs=2).fit(resumed, datamodule=data, ckpt_path=str(tmp_path / "last.ckpt"))
    architecture = DARTSSpace().sample(torch.Generator()).save(tmp_path / "a.json")
    with pytest.raises(CheckpointError, match="none in the checkpoint, choices"):
        make_for_network(architecture=str(architecture), network=None, cells=3, channels=4).on_load_checkpoint(content)


def test_either_an_architecture_or_a_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either an architecture or a network"):
        make_for_network(network=None)
    with pytest.raises(ConfigError, match="either an architecture or a network"):
        make_for_network(architecture=str(DARTSSpace().largest().save(tmp_path / "a.json")))
    with pytest.raises(ConfigError, match="auxiliary_weight is 0.4"):
        make_for_network(auxiliary_weight=0.4)
    with pytest.raises(ConfigError, match="cannot drop paths"):
        make_for_network(drop_path=0.2)


def test_a_module_is_trained_as_it_is() -> None:
    network = ConvNet((3, 8, 8), 3, width=4, depth=1)
    task = make_for_network(network=network)
    assert task.network is network
    assert task(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda shape: None, "cannot be made of image_shape .3, 8, 8. and 3 classes"),
        (lambda shape, classes: 3, "object of int"),
    ],
)
def test_what_makes_no_network_is_refused(network: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_for_network(network=network)


def test_an_optimizer_must_be_given() -> None:
    with pytest.raises(ConfigError, match="has no optimizer"):
        TrainTask(network=torch.nn.Flatten)


@pytest.mark.parametrize("outputs", [2, 4, 1000])
def test_a_network_of_other_outputs_than_classes_is_refused(outputs: int) -> None:
    def network(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), outputs))

    task = make_for_network(network=network)
    with pytest.raises(ConfigError, match=rf"Sequential computes \(\d+, {outputs}\) for a batch; \(images, 3\)"):
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(task, datamodule=Stripes())
