"""Scores by shared weights."""

from typing import Any

import numpy as np
import pytest
import torch

from lightning_nas.data.images import ArrayDataModule
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.supernets.artifact import TrainedSupernet

SPACE = NASBench201Space(channels=4, cells_per_stage=1)
PATH = SPACE.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|")
OTHER = SPACE.parse("|nor_conv_1x1~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")


@pytest.fixture
def supernet() -> Any:
    torch.manual_seed(0)
    made = SPACE.supernet(num_classes=3, image_shape=(3, 8, 8))
    made.train()
    for _ in range(5):  # statistics that fit none
        made(5 + 3 * torch.randn(8, 3, 8, 8), SPACE.to_path(OTHER))
    return made


def data(classes: int = 3, side: int = 8, validation_fraction: float = 0.25) -> ArrayDataModule:
    generator = np.random.default_rng(0)
    labels = np.arange(24 * classes) % classes
    images = generator.integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    np.savez("images.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    return ArrayDataModule("images.npz", validation_fraction=validation_fraction)


def saved(network: Any) -> str:
    return str(TrainedSupernet(network, SPACE, (3, 8, 8), 3, {}).save("supernet.safetensors"))


def test_an_evaluator_scores_several_together(supernet: Any) -> None:
    path, images = saved(supernet), data()
    singly = [SupernetEvaluator(path, data=images).evaluate([a])[0].objectives for a in (PATH, OTHER)]
    scores = SupernetEvaluator(path, data=images)
    kept = scores.evaluate([OTHER])
    found = scores.evaluate([PATH, OTHER, PATH])
    assert [each.objectives["accuracy"] for each in found] == [singly[i]["accuracy"] for i in (0, 1, 0)]
    assert [each.objectives["loss"] for each in found] == pytest.approx([singly[i]["loss"] for i in (0, 1, 0)])
    assert kept[0].objectives == found[1].objectives
    assert found[0].cost["seconds"] > 0 < kept[0].cost["seconds"]
    assert [each.cost["seconds"] for each in found[1:]] == [0, 0]


def test_a_score_holds_until_the_weights_move(supernet: Any) -> None:
    scores = SupernetEvaluator(saved(supernet), data=data())
    first, again = scores.evaluate([PATH, PATH])
    assert first.objectives == again.objectives
    assert set(first.objectives) == {"loss", "accuracy"}
    with torch.no_grad():
        scores.loaded.network.classifier.weight.mul_(-1)
    assert scores.evaluate([PATH])[0].objectives == first.objectives
    assert scores.version == 0
    scores.weights_changed()
    assert scores.version == 1
    assert scores.evaluate([PATH])[0].objectives != first.objectives


def test_held_out_images_are_scored_and_training_images_measured(supernet: Any) -> None:
    images = data()
    scores = SupernetEvaluator(saved(supernet), data=images, images=10, calibration_images=12)
    calibration, held = scores.batches()
    assert len(calibration) == 12
    assert sum(len(y) for _, y in held) == 10

    def rows(x: torch.Tensor) -> set[bytes]:
        return {np.round(each.numpy(), 4).tobytes() for each in x}

    train, _ = images.prepare(images.train_set.__getitems__(list(range(len(images.train_set)))))
    validation, _ = images.prepare(images.validation_set.__getitems__(list(range(len(images.validation_set)))))
    assert rows(calibration) <= rows(train)
    assert rows(torch.cat([x for x, _ in held])) <= rows(validation)


def test_other_data_are_refused_or_asked_for(supernet: Any) -> None:
    path = saved(supernet)
    with pytest.raises(DataError, match="set new_classes to true"):
        SupernetEvaluator(path, data=data(5)).evaluate([PATH])
    moved = SupernetEvaluator(path, data=data(5), new_classes=True)
    assert moved.loaded.num_classes == 5
    assert (
        moved.evaluate([PATH])[0].objectives
        == SupernetEvaluator(path, data=data(5), new_classes=True).evaluate([PATH])[0].objectives
    )
    with pytest.raises(DataError, match=r"images of shape \(3, 8, 8\)"):
        SupernetEvaluator(path, data=data(side=16)).evaluate([PATH])
    with pytest.raises(DataError, match="There is no validation set"):
        SupernetEvaluator(path, data=data(validation_fraction=0)).evaluate([PATH])
    with pytest.raises(ConfigError, match="calibration_images is 1"):
        SupernetEvaluator(path, data=data(), calibration_images=1)


def test_data_without_a_validation_set_are_refused_beforehand() -> None:
    SupernetEvaluator("unread", data=data()).check()
    with pytest.raises(DataError, match="data of SupernetEvaluator have no validation set, which paths are scored on"):
        SupernetEvaluator("unread", data=data(validation_fraction=0.0)).check()
