import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_nas.errors import CheckpointError
from lightning_nas.files.checkpoints import CHECKPOINT_KEY
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.initial_weights import load_initial_weights
from lightning_nas.tasks.train import TrainTask
from tests.genotypes import DARTS_V2
from tests.helpers import quiet_trainer
from tests.tasks.test_train import Stripes, make, make_for_network


def saved(task: TrainTask, path: Path, *, train: bool = True) -> str:
    """A checkpoint of a task as the command line writes it."""
    trainer: Trainer = quiet_trainer(max_epochs=1 if train else 0, limit_val_batches=0)
    if train:
        trainer.fit(task, datamodule=Stripes())
    else:
        trainer.strategy.connect(task)
    content: dict[str, Any] = {
        **{"state_dict": task.state_dict(), "loops": {}, "epoch": 1, "global_step": 2},
        "pytorch-lightning_version": "2.6.0",
        CHECKPOINT_KEY: {"model": {"class_path": "TrainTask"}},
    }
    task.trainer = trainer
    task.on_save_checkpoint(content)
    torch.save(content, path)
    return str(path)


class Start(Exception):  # noqa: N818
    """The first step."""


class Stopped(TrainTask):
    """A training that ends where its first step would begin."""

    def on_train_start(self) -> None:
        raise Start


def started(**options: Any) -> TrainTask:
    """A task as it is before its first step."""
    sizes: dict[str, Any] = {"channels": 4, "cells": 3, "num_classes": 3, "image_shape": (3, 8, 8)}
    task = Stopped(DARTS_V2, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **{**sizes, **options})
    with pytest.raises(Start):
        quiet_trainer(max_epochs=1, num_sanity_val_steps=0).fit(task, datamodule=Stripes())
    return task


def test_everything_is_copied_if_the_classes_are_as_many(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = make()
    path = saved(before, tmp_path / "a.ckpt")
    with caplog.at_level(logging.INFO):
        state = started(initial_weights=path).network.state_dict()
    torch.testing.assert_close(state, before.network.state_dict(), rtol=0, atol=0)
    assert f"copied {len(state)} of {len(state)} tensors. Newly initialised: none." in caplog.text


def test_classifiers_of_other_classes_are_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes: dict[str, Any] = {"auxiliary_weight": 0.4, "image_shape": (3, 32, 32)}
    before = make(num_classes=7, **sizes)
    path = saved(before, tmp_path / "a.ckpt", train=False)
    torch.manual_seed(3)
    alone = make(num_classes=3, **sizes).network.state_dict()
    torch.manual_seed(3)
    own = make(num_classes=3, **sizes)
    with caplog.at_level(logging.INFO):
        copied, new = load_initial_weights(path, own.network, 3, before_architecture(own))
    heads = {"classifier.weight", "classifier.bias", "auxiliary_head.10.weight", "auxiliary_head.10.bias"}
    assert set(new) == heads
    assert f"Newly initialised: {', '.join(new)}." in caplog.text
    expected = {**before.network.state_dict(), **{name: alone[name] for name in heads}}
    torch.testing.assert_close(own.network.state_dict(), expected, rtol=0, atol=0)
    assert len(copied) == len(expected) - 4


def before_architecture(task: TrainTask) -> Any:
    content: dict[str, Any] = {}
    task.trainer = quiet_trainer()
    task.on_save_checkpoint(content)
    return content["export"]["architecture"]


def test_an_auxiliary_classifier_may_be_added_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shape = (3, 32, 32)
    plain, auxiliary = make(image_shape=shape), make(image_shape=shape, auxiliary_weight=0.4)
    architecture = before_architecture(plain)
    paths = [saved(task, tmp_path / f"{i}.ckpt", train=False) for i, task in enumerate((plain, auxiliary))]
    _, new = load_initial_weights(paths[0], auxiliary.network, 3, architecture)
    assert new
    assert all(name.startswith("auxiliary_head.") for name in new)
    with caplog.at_level(logging.INFO):
        assert load_initial_weights(paths[1], plain.network, 3, architecture)[1] == []
    assert "Not used from the checkpoint: auxiliary_head." in caplog.text


class Seven(nn.Module):
    """A network whose body has as many channels as a task has classes."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, width, 1), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x).flatten(1))
        return y


@pytest.mark.parametrize("classes", [3, 5, 7])
def test_a_body_layer_of_as_many_outputs_as_classes_is_copied(classes: int, tmp_path: Path) -> None:
    before = make_for_network(network=lambda shape, _: Seven(7, classes))
    path = saved(before, tmp_path / "a.ckpt", train=False)
    _, new = load_initial_weights(path, Seven(7, 7), 7, None)
    assert new == ([] if classes == 7 else ["head.weight", "head.bias"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"channels": 8},
            r"tensors differ, such as stem.0.weight \(\(12, 3, 3, 3\) in the checkpoint, \(24, 3, 3, 3\)",
        ),
        ({"cells": 4}, r"tensors differ.*Set initial_weights to a checkpoint of the same architecture, channels"),
    ],
)
def test_other_networks_are_refused_before_the_first_step(options: Any, text: str, tmp_path: Path) -> None:
    path = saved(make(), tmp_path / "a.ckpt", train=False)
    task = make(**options, initial_weights=path)
    with pytest.raises(CheckpointError, match=text):
        quiet_trainer(max_epochs=1).fit(task, datamodule=Stripes())


def test_another_architecture_is_refused_though_its_tensors_fit(tmp_path: Path) -> None:
    path = saved(make(), tmp_path / "a.ckpt", train=False)
    found = DARTSSpace().parse(DARTS_V2)
    near = next(n for n in DARTSSpace().neighbours(found) if n.choices[1::2] == found.choices[1::2])
    task = make(str(near.save(tmp_path / "near.json")), initial_weights=path)
    with pytest.raises(CheckpointError, match="another architecture; no shape of a tensor differs"):
        quiet_trainer(max_epochs=1).fit(task, datamodule=Stripes())
    with pytest.raises(CheckpointError, match="another architecture; [0-9]+ tensors differ"):
        load_initial_weights(path, Seven(7, 3), 3, None)


def test_what_is_no_checkpoint_of_a_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist. Check the path given as --model.initial_weights"):
        quiet_trainer(max_epochs=1).fit(make(initial_weights="nowhere.ckpt"), datamodule=Stripes())
    path = Path(saved(make(), tmp_path / "a.ckpt", train=False))
    content = torch.load(path, weights_only=True)
    torch.save({**content, "state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="has no network of a final training"):
        load_initial_weights(str(path), make().network, 3, None)
    content["state_dict"]["network.stem.0.weight"].fill_(torch.nan)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"values of stem.0.weight that are not finite"):
        load_initial_weights(str(path), make().network, 3, content["export"]["architecture"])


def test_a_resumed_run_and_a_test_do_not_read_the_file(tmp_path: Path) -> None:
    path = Path(saved(make(), tmp_path / "a.ckpt"))
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(make(initial_weights=str(path)), datamodule=Stripes())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    path.unlink()
    resumed = make(initial_weights=str(path))
    quiet_trainer(max_epochs=2).fit(resumed, datamodule=Stripes(), ckpt_path=str(tmp_path / "last.ckpt"))
    quiet_trainer(max_epochs=1).fit(resumed, datamodule=Stripes())  # weights of an earlier fit are kept as well
    quiet_trainer().test(make(initial_weights=str(path)), datamodule=Stripes(), verbose=False)
