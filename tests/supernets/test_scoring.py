"""Loss and accuracy of single paths, by batch-norm statistics of their own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.path_scoring import BatchedPathScoring
from lightning_nas.spaces.single_path.space import SinglePathSpace
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.supernets.scoring import calibrated, score_paths

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


def test_statistics_are_those_of_the_batch(supernet: Any) -> None:
    images, path = torch.randn(64, 3, 8, 8), SPACE.to_path(PATH)
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
    path = SPACE.to_path(PATH)
    parts = list(zip(images.split(8), labels.split(8), strict=True))
    (found,) = score_paths(supernet, [path], calibration, parts)
    with calibrated(supernet, calibration, path), torch.no_grad():
        logits = supernet(images, path)
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-5)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_several_paths_are_scored_in_their_order(supernet: Any) -> None:
    images, labels, calibration = torch.randn(30, 3, 8, 8), torch.randint(3, (30,)), torch.randn(64, 3, 8, 8)
    held = list(zip(images.split(8), labels.split(8), strict=True))
    paths = [SPACE.to_path(a) for a in (PATH, OTHER, PATH)]
    found = score_paths(supernet, paths, calibration, held)
    assert score_paths(supernet, [], calibration, held) == []
    for path, each in zip(paths, found, strict=True):
        with calibrated(supernet, calibration, path):
            logits = supernet(images, path)
        assert each["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-5)
        assert each["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert found[0] == found[2] != found[1]


def test_spaces_that_cannot_share_go_one_by_one() -> None:
    torch.manual_seed(0)
    space = SinglePathSpace(widths=[16, 32], depths=[1, 1], strides=[1, 2], stem_stride=1, last=24)
    network = space.supernet(num_classes=3, image_shape=(3, 8, 8))
    assert not isinstance(network, BatchedPathScoring)
    images, labels, calibration = torch.randn(30, 3, 8, 8), torch.randint(3, (30,)), torch.randn(64, 3, 8, 8)
    paths = [space.to_path(space.largest()), (0, 0), (1, 2)]
    held = list(zip(images.split(8), labels.split(8), strict=True))
    found = score_paths(network, paths, calibration, held)
    for path, each in zip(paths, found, strict=True):
        with calibrated(network, calibration, path):
            logits = network(images, path)
        assert each["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-5)
        assert each["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_statistics_are_taken_back_where_a_score_fails(supernet: Any) -> None:
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    operations, edges, active, _ = SPACE.to_path(PATH)["cell"]
    path = {"cell": Mixture(operations / 2, edges, active)}  # one by one
    images = torch.randn(8, 3, 8, 8)
    with pytest.raises(IndexError, match="out of bounds"):
        score_paths(supernet, [path], images, [(images, torch.full((8,), 7))])
    assert supernet.training
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
