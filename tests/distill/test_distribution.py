"""Distribution matching equals the distance of class means, however many networks there are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_nas.distill.base import Synthetic
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.distribution import DistributionMatching, class_means, one_by_one, together
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError


def test_matching_is_the_distance_of_class_means() -> None:
    matcher = DistributionMatching(width=6, depth=2)
    matcher.start((1, 8, 8), 3, 0)
    real, proxy = torch.randn(12, 1, 8, 8), torch.randn(6, 1, 8, 8)
    real_labels, labels = torch.arange(12) % 3, torch.arange(6) % 3
    torch.manual_seed(11)
    features = ConvNet((1, 8, 8), 1, 6, 2).features
    expected = torch.zeros(())
    for c in range(3):
        distance = features(real[real_labels == c]).mean(0) - features(proxy[labels == c]).mean(0)
        expected = expected + (distance**2).sum()
    found = matcher.loss((real, real_labels), drawing(proxy, labels), seed=11)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(matcher.loss((real, real_labels), drawing(proxy, labels), seed=12), found)
    shuffled = torch.randperm(12)
    same = matcher.loss((real[shuffled], real_labels[shuffled]), drawing(real, real_labels), seed=3)
    assert same < 1e-8


def test_several_networks_are_the_mean_over_them_and_their_gradient() -> None:
    real, labels = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    proxy = torch.randn(6, 1, 8, 8, requires_grad=True)
    matcher = DistributionMatching(width=6, depth=2, networks=3)
    matcher.start((1, 8, 8), 3, 0)
    found = matcher.loss((real, labels), drawing(proxy, labels[:6]), seed=11)
    torch.manual_seed(11)
    networks = [ConvNet((1, 8, 8), 1, 6, 2).features for _ in range(3)]
    distances = [
        (class_means(network(proxy), labels[:6], 3) - class_means(network(real), labels, 3)).square().sum()
        for network in networks
    ]
    expected = sum(distances) / 3
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, proxy)[0] for loss in (found, expected)))


def test_networks_computed_together_are_those_one_by_one() -> None:
    networks = [ConvNet((1, 8, 8), 1, 6, 2).features for _ in range(3)]
    x = torch.randn(5, 1, 8, 8, requires_grad=True)
    both = [make(networks)(x) for make in (together, one_by_one)]
    torch.testing.assert_close(*both)
    torch.testing.assert_close(*(torch.autograd.grad(f.square().sum(), x)[0] for f in both))


def test_real_and_synthetic_images_are_augmented_alike() -> None:
    real, labels = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    matcher = DistributionMatching(width=4, depth=1, augmentation=SiameseAugmentation(saturation=0))
    matcher.start((1, 8, 8), 3, 0)
    for seed in range(12):
        assert matcher.loss((real, labels), drawing(real, labels), seed) < 1e-8
    plain = DistributionMatching(width=4, depth=1)
    plain.start((1, 8, 8), 3, 0)
    proxy = torch.randn(12, 1, 8, 8)
    losses = [[float(m.loss((real, labels), drawing(proxy, labels), s)) for s in range(12)] for m in (matcher, plain)]
    assert losses[0] != losses[1]


def drawing(images: Tensor, labels: Tensor) -> Callable[[int], Synthetic]:
    return lambda seed: Synthetic(images, labels, torch.arange(len(labels)))


def test_class_means_of_absent_classes_are_zero() -> None:
    means = class_means(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2, 2]), 3)
    assert torch.equal(means, torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 3.0]]))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="networks is 0"):
        DistributionMatching(networks=0)
