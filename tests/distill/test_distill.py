from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_nas.data.class_balanced import ClassBalancedDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.distill.base import Proxy, Scheme, Synthetic
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.distribution import DistributionMatching, class_means, one_by_one, together
from lightning_nas.distill.images import Noise, PlainImages, RandomSubset, class_subset
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.tasks.distill import DistillTask
from tests.helpers import quiet_trainer


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    return DigitsDataModule()


def data(digits: DigitsDataModule, steps: int = 3) -> ClassBalancedDataModule:
    return ClassBalancedDataModule(digits, images_per_class=16, steps_per_epoch=steps)


def test_batches_are_balanced_and_new_in_every_epoch(digits: DigitsDataModule) -> None:
    loader = data(digits).train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches = list(loader)
        assert len(batches) == 3
        assert all(torch.bincount(y, minlength=10).eq(16).all() for _, y in batches)
        epochs.append(torch.cat([x for x, _ in batches]))
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


def test_matching_is_the_distance_of_class_means() -> None:
    matcher = DistributionMatching(width=6, depth=2)
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
    for seed in range(12):
        assert matcher.loss((real, labels), drawing(real, labels), seed) < 1e-8
    plain = DistributionMatching(width=4, depth=1)
    proxy = torch.randn(12, 1, 8, 8)
    losses = [[float(m.loss((real, labels), drawing(proxy, labels), s)) for s in range(12)] for m in (matcher, plain)]
    assert losses[0] != losses[1]


def drawing(images: Tensor, labels: Tensor) -> Callable[[int], Synthetic]:
    return lambda seed: Synthetic(images, labels, torch.arange(len(labels)))


def test_class_means_of_absent_classes_are_zero() -> None:
    means = class_means(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([2, 2]), 3)
    assert torch.equal(means, torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 3.0]]))


def test_convnet_refuses_images_smaller_than_its_poolings() -> None:
    assert ConvNet((3, 32, 32), 10).features(torch.zeros(1, 3, 32, 32)).shape == (1, 2048)
    with pytest.raises(DataError, match="16x16"):
        ConvNet((3, 8, 8), 10, depth=4)


def test_subset_is_balanced_and_of_its_class() -> None:
    labels = torch.randint(5, (200,))
    chosen = class_subset(labels, 4, 5, torch.Generator().manual_seed(0))
    assert torch.equal(labels[chosen], torch.arange(5).repeat_interleave(4))
    assert len(chosen.unique()) == 20
    for wrong in (0, -1, 10_000):
        with pytest.raises(ConfigError, match="images_per_class"):
            class_subset(labels, wrong, 5, torch.Generator())


@pytest.mark.parametrize("scheme", [RandomSubset(3), Noise(3)])
def test_controls_are_not_trained_and_make_a_proxy(tmp_path: Path, digits: DigitsDataModule, scheme: Scheme) -> None:
    task = DistillTask(scheme, output_dir=str(tmp_path))
    with pytest.warns(UserWarning, match="returned `None`"):
        quiet_trainer(max_epochs=1).fit(task, datamodule=data(digits, 1))
    proxy = Proxy.load(tmp_path / "proxy.safetensors")
    assert proxy.info["proxy_images"] == 30
    assert proxy.info["source_images"] == 1437
    images, labels = data(digits).training_images()
    real = {tuple(image.flatten().tolist()) for image in images}
    share = sum(tuple(image.flatten().tolist()) in real for image in proxy.images) / len(proxy.images)
    assert share == (1.0 if type(scheme) is RandomSubset else 0.0)


def test_distillation_lowers_the_distance_to_fresh_real_batches(tmp_path: Path, digits: DigitsDataModule) -> None:
    task = DistillTask(
        PlainImages(4),
        DistributionMatching(width=16, depth=2),
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5),
        output_dir=str(tmp_path),
    )
    module = data(digits, steps=40)
    quiet_trainer(max_epochs=2).fit(task, datamodule=module)
    proxy = Proxy.load(tmp_path / "proxy.safetensors")
    images, labels = module.training_images()
    start = PlainImages(4)
    start.start(images, labels, 10, torch.Generator().manual_seed(0))

    def distance(scheme: Scheme) -> float:
        matcher = DistributionMatching(width=16, depth=2)
        with torch.no_grad():
            return sum(float(matcher.loss((images, labels), scheme.draw, seed)) for seed in range(100, 110))

    assert distance(proxy.scheme) < 0.7 * distance(start)


def test_a_run_gone_on_with_equals_an_uninterrupted_one(tmp_path: Path, digits: DigitsDataModule) -> None:
    def make(folder: str) -> DistillTask:
        matcher = DistributionMatching(width=4, depth=1)
        return DistillTask(
            PlainImages(2),
            matcher,
            lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5),
            output_dir=str(tmp_path / folder),
        )

    quiet_trainer(max_epochs=3).fit(make("whole"), datamodule=data(digits))
    first = quiet_trainer(max_epochs=1)
    first.fit(make("parts"), datamodule=data(digits))
    first.save_checkpoint(tmp_path / "first.ckpt")
    torch.manual_seed(99)  # the global generator is not part of it
    quiet_trainer(max_epochs=3).fit(make("parts"), datamodule=data(digits), ckpt_path=str(tmp_path / "first.ckpt"))
    whole, parts = (Proxy.load(tmp_path / f / "proxy.safetensors") for f in ("whole", "parts"))
    assert torch.equal(whole.images, parts.images)


def test_a_matcher_needs_an_optimizer_and_something_to_train(tmp_path: Path, digits: DigitsDataModule) -> None:
    with pytest.raises(ConfigError, match="optimizer"):
        DistillTask(PlainImages(2), DistributionMatching())
    with pytest.raises(ConfigError, match="no matcher"):
        quiet_trainer(max_epochs=1).fit(DistillTask(PlainImages(2)), datamodule=data(digits))
    wrong = DistillTask(Noise(2), DistributionMatching(), lambda p: torch.optim.SGD(p, lr=1.0))
    with pytest.raises(ConfigError, match="no trainable"):
        quiet_trainer(max_epochs=1).fit(wrong, datamodule=data(digits))
    for steps, per_class in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="at least 1"):
            ClassBalancedDataModule(digits, per_class, steps)
