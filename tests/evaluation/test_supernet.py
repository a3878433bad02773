"""Scores by shared weights."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_nas.data.images import ArrayDataModule
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.supernet import SupernetScores, calibrated, score_path
from lightning_nas.spaces.nasbench201 import NASBench201Space
from lightning_nas.supernets import TrainedSupernet

SPACE = NASBench201Space(channels=4, cells_per_stage=1)
PATH = SPACE.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|")
OTHER = SPACE.parse("|nor_conv_1x1~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")


@pytest.fixture
def supernet() -> Any:
    torch.manual_seed(0)
    made = SPACE.supernet(num_classes=3, image_shape=(3, 8, 8))
    made.train()
    for _ in range(5):  # statistics that fit none
        made(5 + 3 * torch.randn(8, 3, 8, 8), SPACE.discrete(OTHER))
    return made


def data(classes: int = 3, side: int = 8, validation_fraction: float = 0.25) -> ArrayDataModule:
    generator = np.random.default_rng(0)
    labels = np.arange(24 * classes) % classes
    images = generator.integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    np.savez("images.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    return ArrayDataModule("images.npz", validation_fraction=validation_fraction)


def saved(network: Any) -> str:
    return str(TrainedSupernet(network, SPACE, (3, 8, 8), 3, {}).save("supernet.safetensors"))


def test_statistics_are_those_of_the_batch(supernet: Any) -> None:
    images, path = torch.randn(64, 3, 8, 8), SPACE.discrete(PATH)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    expected = supernet(images, path).detach()  # by the batch's own statistics
    supernet.load_state_dict(before)
    wrong = supernet.eval()(images, path)
    supernet.train()
    with calibrated(supernet, images, path):
        assert not supernet.training
        found = supernet(images, path)
    # running variances are unbiased, those of a batch are not: 1/256 in the last stage, where 64 images of 2x2 are left
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert (wrong - expected).abs().max() > 0.2
    assert supernet.training
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_another_momentum_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=0.2))
    with pytest.raises(ConfigError, match="momentum 0.2"), calibrated(network, torch.randn(2, 3, 4, 4), None):
        pass


def test_scores_are_loss_and_accuracy_over_all_images(supernet: Any) -> None:
    images, labels, calibration = torch.randn(30, 3, 8, 8), torch.randint(3, (30,)), torch.randn(64, 3, 8, 8)
    path = SPACE.discrete(PATH)
    parts = list(zip(images.split(8), labels.split(8), strict=True))
    found = score_path(supernet, path, calibration, parts)
    with calibrated(supernet, calibration, path), torch.no_grad():
        logits = supernet(images, path)
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-5)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_a_score_holds_until_the_weights_move(supernet: Any) -> None:
    scores = SupernetScores(saved(supernet), data())
    first, again = scores.evaluate([PATH, PATH])
    assert first.objectives == again.objectives
    assert set(first.objectives) == {"loss", "accuracy"}
    with torch.no_grad():
        scores.loaded.network.classifier.weight.mul_(-1)
    assert scores.evaluate([PATH])[0].objectives == first.objectives
    assert scores.version == 0
    scores.moved()
    assert scores.version == 1
    assert scores.evaluate([PATH])[0].objectives != first.objectives


def test_held_out_images_are_scored_and_training_images_measured(supernet: Any) -> None:
    images = data()
    scores = SupernetScores(saved(supernet), images, images=10, calibration_images=12)
    calibration, held = scores._batches()
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
        SupernetScores(path, data(5)).evaluate([PATH])
    moved = SupernetScores(path, data(5), new_classes=True)
    assert moved.loaded.num_classes == 5
    assert (
        moved.evaluate([PATH])[0].objectives
        == SupernetScores(path, data(5), new_classes=True).evaluate([PATH])[0].objectives
    )
    with pytest.raises(DataError, match=r"images of shape \(3, 8, 8\)"):
        SupernetScores(path, data(side=16)).evaluate([PATH])
    with pytest.raises(DataError, match="There is no validation set"):
        SupernetScores(path, data(validation_fraction=0)).evaluate([PATH])
    with pytest.raises(ConfigError, match="calibration_images 1"):
        SupernetScores(path, data(), calibration_images=1)
