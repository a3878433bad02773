from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.distill.data_module import SoftImageSet
from lightning_nas.errors import ConfigError
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.train import TrainTask
from tests.helpers import quiet_trainer
from tests.tasks.test_bilevel import make as make_search
from tests.tasks.test_train import Stripes, make

BALANCED = torch.tensor([1 / 24, 1 / 16, 1 / 8])
BALANCED = BALANCED / BALANCED.mean()
"""Of the training images of ``data``."""


@pytest.fixture
def data(tmp_path: Path) -> ArrayDataModule:
    """24, 16 and 8 images of three classes."""
    labels = np.repeat([0, 1, 2], [24, 16, 8])
    images = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images[::4], y_test=labels[::4])
    return ArrayDataModule(str(tmp_path / "images.npz"), batch_size=12)


def soft(labels: Tensor) -> Tensor:
    return F.one_hot(labels, 3) * 0.8 + 0.2 / 3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("convert", [None, soft], ids=["hard", "soft"])
@pytest.mark.parametrize("given", [[1.0, 2.0, 0.5], "balanced"])
def test_the_loss_of_both_classifiers_is_weighted(given: Any, convert: Any, smoothing: float, tmp_path: Path) -> None:
    task = make(auxiliary_weight=0.4, image_shape=(3, 32, 32), label_smoothing=smoothing, class_weights=given)
    labels = np.repeat([0, 1, 2], [24, 16, 8])
    images = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[::5][:9])
    data = ArrayDataModule(str(tmp_path / "images.npz"), batch_size=12)
    quiet_trainer(max_epochs=1, limit_train_batches=1).fit(task, datamodule=data)

    batch = (torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    expected = convert(batch[1]) if convert else batch[1]
    loss = task.training_step((batch[0], expected), 0)
    logits, auxiliary = task.network.forward_auxiliary(batch[0])
    weight = BALANCED if given == "balanced" else torch.tensor(given)
    torch_loss = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(loss, torch_loss(logits, expected) + 0.4 * torch_loss(auxiliary, expected))
    assert not any("loss_weights" in name for name in task.state_dict())


def test_evaluation_is_not_weighted(data: ArrayDataModule) -> None:
    trainer = quiet_trainer(max_epochs=1)
    task = make(class_weights=[1.0, 2.0, 0.5])
    trainer.fit(task, datamodule=data)
    (tested,) = trainer.test(task, datamodule=data, verbose=False)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    images, labels = (torch.cat(each) for each in zip(*batches, strict=True))
    with torch.no_grad():
        expected = float(F.cross_entropy(task.eval()(images), labels))
    assert tested["test/loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("given", [[3.0, 1.0, 0.5], "balanced"])
def test_all_losses_of_a_search_are_weighted(given: Any, data: ArrayDataModule, tmp_path: Path) -> None:
    halves = HalvesDataModule(data, batch_size=12)
    task: BilevelTask = make_search(tmp_path, class_weights=given, num_classes=3)
    quiet_trainer(max_epochs=1, limit_train_batches=1, precision="64-true").fit(task, datamodule=halves)
    batch = (torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 2]))
    logits = task.objective.weight_loss(batch, with_alphas=False).logits
    weight = (BALANCED if given == "balanced" else torch.tensor(given)).double()
    expected = F.cross_entropy(logits, batch[1], weight=weight)
    assert not torch.allclose(expected, F.cross_entropy(logits, batch[1]))
    for loss in (
        task.objective.train_loss(batch),
        task.objective.search_loss(batch),
        task.objective.weight_loss(batch, with_alphas=False).loss,
    ):
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


def test_the_classes_of_a_proxy_are_counted_by_their_probabilities() -> None:
    labels = torch.tensor([0, 0, 1])
    probabilities = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.0, 1.0]])
    images = SoftImageSet(torch.zeros(3, 1, 2, 2), labels, ["a", "b"], torch.arange(3), probabilities)
    assert images.class_counts().tolist() == [1.75, 1.25]
    assert images.class_counts(torch.tensor([0, 2])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([1.0, 2.0], "class_weights has 2 values for 3 classes"),
        ([1.0, -1.0, 1.0], r"class_weights\[1\] is -1.0; it must be greater than 0"),
        ([1.0, 0.0, 1.0], r"class_weights\[1\] is 0.0; it must be greater than 0"),
        ([float("nan"), 1.0, 1.0], r"class_weights\[0\] is nan"),
        ([1.0, 1.0, float("inf")], r"class_weights\[2\] is inf; it must be finite"),
        ("equal", "class_weights is 'equal'; it must be one of 'balanced'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(given: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        make(class_weights=given)
    with pytest.raises(ConfigError, match=text):
        make_search(tmp_path, class_weights=given, num_classes=3)


@pytest.mark.parametrize("weight", [1e300, 1e-300])
def test_weights_that_the_type_of_the_network_cannot_hold_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"class_weights\[1\] is 1e[+-]300, which is (inf|0\.0) as torch\.float32"):
        quiet_trainer(max_epochs=1).fit(make(class_weights=[1.0, weight, 1.0]), datamodule=Stripes())


def test_labels_that_are_not_counted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Stripes does not count its training labels"):
        TrainTask.check_arguments({"class_weights": "balanced"}, Stripes())
    with pytest.raises(ConfigError, match="Stripes does not count its training labels"):
        quiet_trainer(max_epochs=1).fit(make(class_weights="balanced"), datamodule=Stripes())

    class Lacking(Stripes):
        def class_counts(self) -> list[int]:
            return [3, 0, 3]

    with pytest.raises(ConfigError, match=r"counted as \[3, 0, 3\] for 3 classes"):
        quiet_trainer(max_epochs=1).fit(make(class_weights="balanced"), datamodule=Lacking())
