import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.data.class_balanced import ClassBalancedDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.distill import convnet
from lightning_nas.distill.base import Synthetic
from lightning_nas.distill.gradient import GradientMatching
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError
from lightning_nas.tasks.distill import DistillTask
from tests.helpers import quiet_trainer, started

X, Y = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double(), torch.arange(24) % 4


def matching(shape: tuple[int, int, int] = (3, 8, 8), classes: int = 4, **options: Any) -> GradientMatching:
    """In float64, with norms whose parameters are not those of the start."""
    matcher = GradientMatching(**{"width": 6, "depth": 2, **options})
    matcher.start(shape, classes, 5)
    matcher.double()
    for parameter in matcher.network.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    return matcher


def drawing(images: Tensor, labels: Tensor, targets: Tensor | None = None) -> Callable[[int], Synthetic]:
    return lambda seed: Synthetic(images, labels, torch.arange(len(labels)), targets)


def by_hand(network: nn.Module, real: tuple[Tensor, Tensor], synthetic: Synthetic) -> Tensor:
    """Class by class with autograd."""
    weights = [p.requires_grad_() for p in network.parameters() if p.dim() > 1]
    total = torch.zeros(())
    for c in synthetic.labels.unique():
        own = synthetic.labels == c
        target = torch.autograd.grad(F.cross_entropy(network(real[0][real[1] == c]), real[1][real[1] == c]), weights)
        loss = F.cross_entropy(network(synthetic.images[own]), synthetic.targets[own])
        for a, b in zip(torch.autograd.grad(loss, weights, create_graph=True), target, strict=True):
            for row, goal in zip(a, b, strict=True):
                total = total + 1 - (row * goal).sum() / (row.norm() * goal.norm())
    network.requires_grad_(False)
    return total


@pytest.mark.parametrize("size", [(8, 8), (9, 13)], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_it_is_the_loop_over_classes_written_out(
    size: tuple[int, int], soft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convnet, "CACHE_BYTES", 6 * size[0] * size[1] * 8 * 4)  # of 6 images, 4 and then 2
    real = torch.randn(24, 3, *size).double()
    images = torch.randn(12, 3, *size).double().requires_grad_()
    labels = torch.arange(12) % 4
    targets = torch.rand(12, 4).double().requires_grad_() if soft else None
    matcher = matching((3, *size))
    found = matcher.loss((real, Y), drawing(images, labels, targets), 3)
    expected = by_hand(matcher.network, (real, Y), drawing(images, labels, targets)(0))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    inputs = [images] if targets is None else [images, targets]
    for a, b in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert torch.equal(matcher.loss((real, Y), drawing(images.detach(), labels, targets), 3), found)


def test_classes_get_changes_of_their_own_the_same_for_real_and_synthetic_images() -> None:
    class Recorded(SiameseAugmentation):
        seeds: list[tuple[int, int]] = []  # noqa: RUF012

        def __call__(self, images: Tensor, seed: int) -> Tensor:
            self.seeds.append((len(images), seed))
            return super().__call__(images, seed)

    matcher = matching(augmentation=Recorded())
    images = X[:8].clone().requires_grad_()
    first = matcher.loss((X, Y), drawing(images, Y[:8]), 3)
    seeds = Recorded.seeds.copy()
    assert sorted(n for n, _ in seeds) == [2] * 4 + [6] * 4
    assert {s for n, s in seeds if n == 2} == {s for n, s in seeds if n == 6}
    assert len({s for _, s in seeds}) == 4
    (slope,) = torch.autograd.grad(first, images)
    assert all(bool(s.any()) for s in slope)
    assert matcher.loss((X, Y), drawing(X, Y), 3) == 0
    assert matcher.loss((X, Y), drawing(images, Y[:8]), 4) != first


def test_the_network_is_trained_as_by_sgd_and_replaced() -> None:
    matcher = matching(network_steps=3, reset_every=3, network_lr=0.05)
    hand = matching(network_steps=3)
    hand.network.load_state_dict(matcher.network.state_dict())
    network = hand.network.requires_grad_()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.5)
    draw = drawing(X[:8], Y[:8])
    begun = [p.clone() for p in matcher.network.parameters()]
    for step in range(2):
        matcher.advance(draw, step)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network(X[:8]), Y[:8]).backward()
            optimizer.step()
        for a, b in zip(matcher.network.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    trained = [p.clone() for p in matcher.network.parameters()]
    assert sum(not torch.equal(a, b) for a, b in zip(begun, trained, strict=True)) == len(begun) - 2  # but conv biases
    before = torch.get_rng_state()
    matcher.advance(draw, 9)
    assert torch.equal(before, torch.get_rng_state())
    fresh = [p.clone() for p in matcher.network.parameters()]
    assert all(not v.any() for v in matcher.velocity.parameters())
    assert not torch.equal(fresh[0], trained[0])
    other = matching(reset_every=1)
    other.advance(draw, 9)
    assert all(torch.equal(a, b) for a, b in zip(other.network.parameters(), fresh, strict=True))
    other.advance(draw, 10)
    assert not torch.equal(other.network.features[0].weight, fresh[0])


def test_what_a_loss_holds_does_not_grow_with_the_network() -> None:
    """Its graph holds images alone."""

    def kept(width: int) -> int:
        saved = []

        def keep(tensor: Tensor) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        matcher, images = matching(width=width), X[:8].clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            matcher.loss((X, Y), drawing(images, Y[:8]), 3)
        return sum(saved)

    assert 0 < kept(4) == kept(32)


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    return DigitsDataModule()


@pytest.mark.parametrize(
    "make",
    [lambda: PlainImages(2), lambda: RelationMappings(8, mappings=4, mapping_lr=0.01)],
    ids=["plain", "relations"],
)
def test_a_resumed_run_is_the_uninterrupted_one(make: Any, tmp_path: Path, digits: DigitsDataModule) -> None:
    def task(folder: str) -> DistillTask:
        matcher = GradientMatching(
            4, depth=2, network_steps=2, reset_every=4, augmentation=SiameseAugmentation(saturation=0)
        )
        optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.5)
        return DistillTask(make(), matcher=matcher, optimizer=optimizer, output_dir=str(tmp_path / folder))

    def data() -> ClassBalancedDataModule:
        return ClassBalancedDataModule(digits, images_per_class=8, steps_per_epoch=3)

    whole, parts = task("whole"), task("parts")
    quiet_trainer(max_epochs=3).fit(whole, datamodule=data())
    first = quiet_trainer(max_epochs=1)
    first.fit(task("parts"), datamodule=data())
    first.save_checkpoint(tmp_path / "first.ckpt")
    quiet_trainer(max_epochs=3).fit(parts, datamodule=data(), ckpt_path=str(tmp_path / "first.ckpt"))
    state = parts.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    assert int(whole.matcher.get_buffer("steps")) == 9  # type: ignore[union-attr]  # so that the network was replaced
    begun = started(make(), *data().training_images())
    assert all(not torch.equal(p, whole.scheme.get_parameter(name)) for name, p in begun.named_parameters())


def _matched(rank: int, world: int) -> tuple[Tensor, Tensor]:
    """Of a rank's part of the real images."""
    torch.manual_seed(2)
    matcher, images = matching(), X[:8].clone().requires_grad_()
    order = Y.argsort(stable=True)[rank::world]
    loss = matcher.loss((X[order], Y[order]), drawing(images, Y[:8]), 3)
    return loss.detach(), torch.autograd.grad(loss, images)[0]


def _process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(_matched(rank, 2), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(), reason="processes are forked, which must come before CUDA"
)
def test_two_processes_are_one_with_their_real_images(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="fork")
    for rank in range(2):
        for a, b in zip(torch.load(tmp_path / f"{rank}.pt"), _matched(0, 1), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"network_steps": -1}, "network_steps is -1"),
        ({"reset_every": 0}, "reset_every is 0"),
        ({"network_lr": 0.0}, "network_lr is 0.0"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        GradientMatching(**options)
