import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.data.class_balanced import ClassBalancedDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.distill.base import Scheme, Synthetic
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.experts import Experts
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.proxy import Proxy
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.distill.trajectory import TrajectoryMatching
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.tasks.distill import DistillTask
from lightning_nas.tasks.experts import ExpertsTask
from tests.distill.fake import CLASSES, DEPTH, PATH, SHAPE, WIDTH, experts, flat, wandering
from tests.helpers import quiet_trainer, started


def matching(made: Experts, **options: Any) -> TrajectoryMatching:
    made.save(PATH)
    defaults = {"student_steps": 3, "expert_epochs": 2, "max_start_epoch": 2, "student_lr": 0.05}
    matcher = TrajectoryMatching(PATH, **{**defaults, **options})
    matcher.start(SHAPE, CLASSES, 0)
    return matcher


def logits_of(x: Tensor, weights: Tensor) -> Tensor:
    """The network, operation by operation."""
    rest = weights

    def take(*shape: int) -> Tensor:
        nonlocal rest
        count = int(torch.tensor(shape).prod())
        piece, rest = rest[:count].reshape(shape), rest[count:]
        return piece

    for channels in (1, WIDTH):
        x = F.conv2d(x, take(WIDTH, channels, 3, 3), take(WIDTH), padding=1)
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        scale, shift = take(WIDTH), take(WIDTH)
        x = (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]
        x = F.avg_pool2d(x.relu(), 2)
    return x.flatten(1) @ take(CLASSES, WIDTH * 4).t() + take(CLASSES)


def distance(weights: Tensor, batches: list[tuple[Tensor, Tensor]], lr: Tensor) -> Tensor:
    """The loss by hand: ``weights`` are those of the expert from its start to its end."""
    student = weights[0].clone().requires_grad_()
    for images, targets in batches:
        loss = -(targets * logits_of(images, student).log_softmax(1)).sum(1).mean()
        student = student - lr * torch.autograd.grad(loss, student, create_graph=True)[0]
    return ((student - weights[-1]) ** 2).sum() / ((weights[0] - weights[-1]) ** 2).sum()


REAL = (torch.zeros(0, *SHAPE), torch.zeros(0, dtype=torch.long))


def drawing(images: Tensor, targets: Tensor | None = None) -> Callable[[int], Synthetic]:
    labels = torch.arange(len(images)) % CLASSES
    return lambda seed: Synthetic(images, labels, torch.arange(len(images)), targets)


@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_and_its_gradients_are_those_of_a_loop_by_hand(soft: bool) -> None:
    matcher = matching(wandering(count=1, epochs=2), max_start_epoch=0).double()
    images = torch.randn(6, *SHAPE, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(6, CLASSES, dtype=torch.float64).softmax(1) if soft else None
    loss = matcher.loss(REAL, drawing(images, targets), seed=3)
    found = torch.autograd.grad(loss, (images, matcher.log_student_lr))
    by_hand = F.one_hot(torch.arange(6) % CLASSES).double() if targets is None else targets
    lr = matcher.student_lr.detach().requires_grad_()
    assert float(lr.detach()) == pytest.approx(0.05, rel=1e-6)
    (weights,) = wandering(count=1, epochs=2).weights.double()
    expected = distance(weights, [(images, by_hand)] * 3, lr)
    gradients = torch.autograd.grad(expected, (images, lr))
    exact = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(loss, expected, **exact)
    torch.testing.assert_close(found[0], gradients[0], **exact)
    torch.testing.assert_close(found[1], gradients[1] * lr, **exact)
    for place in ((0, 0, 3, 4), (5, 0, 7, 0)):
        moved = torch.zeros_like(images)
        moved[place] = 1e-5
        high, low = (matcher.loss(REAL, drawing(images + s * moved, targets), 3).item() for s in (1, -1))
        assert (high - low) / 2e-5 == pytest.approx(float(found[0][place]), rel=1e-5, abs=1e-9)


def test_the_step_chooses_expert_and_start_and_nothing_else_does() -> None:
    made = wandering()
    matcher = matching(made, student_steps=2).double()
    images, targets = torch.randn(3, *SHAPE).double(), torch.eye(CLASSES).double()
    lr = matcher.student_lr.detach()
    possible = {
        (e, t): distance(made.weights[e, t : t + 3 : 2].double(), [(images, targets)] * 2, lr).item()
        for e in range(2)
        for t in range(3)
    }
    seen = set()
    before = torch.get_rng_state()
    for seed in range(30):
        loss = matcher.loss(REAL, drawing(images), seed).item()
        assert loss == matcher.loss(REAL, drawing(images), seed).item()
        seen |= {pair for pair, value in possible.items() if value == pytest.approx(loss, rel=1e-9)}
    assert seen == possible.keys()
    assert torch.equal(before, torch.get_rng_state())


def test_a_student_that_repeats_the_expert_is_at_no_distance() -> None:
    images, targets = torch.randn(6, *SHAPE), F.one_hot(torch.arange(6) % CLASSES).float()
    network = ConvNet(SHAPE, CLASSES, WIDTH, DEPTH)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    trajectory = [flat(network)]
    for _ in range(4):  # epochs of two steps
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(network(images), targets).backward()
            optimizer.step()
        trajectory.append(flat(network))
    matcher = matching(experts(torch.stack(trajectory)[None]), student_steps=4)
    for seed in range(4):
        assert matcher.loss(REAL, drawing(images), seed) < 1e-8
    too_short = matching(experts(torch.stack(trajectory)[None]), student_steps=3)
    assert too_short.loss(REAL, drawing(images), 0) > 1e-3


def test_every_step_draws_afresh_and_a_pass_takes_every_image_once() -> None:
    matcher = matching(wandering(count=1, epochs=2), student_steps=6, max_start_epoch=0, batch_size=2)
    images = torch.randn(6, *SHAPE, requires_grad=True)
    drawn: list[Tensor] = []
    seeds = []

    def draw(seed: int) -> Synthetic:
        seeds.append(seed)
        drawn.append(images * 1)
        return drawing(drawn[-1])(seed)

    loss = matcher.loss(REAL, draw, 0)
    assert len(set(seeds)) == 6
    used = [g.flatten(1).any(1).nonzero().flatten().tolist() for g in torch.autograd.grad(loss, drawn)]
    assert [len(u) for u in used] == [2] * 6
    for turn in (used[:3], used[3:]):
        assert sorted(sum(turn, [])) == [0, 1, 2, 3, 4, 5]
    # a hallucinator a step: one step reaches one of them, many reach all
    scheme = started(HallucinatedBases(2, hallucinators=3), torch.randn(12, *SHAPE), torch.arange(12) % CLASSES)
    for steps, reached in ((1, 1), (12, 3)):
        matcher = matching(wandering(count=1, epochs=2), student_steps=steps, max_start_epoch=0)
        (gradient,) = torch.autograd.grad(matcher.loss(REAL, scheme.draw, 1), scheme.encode)  # type: ignore[arg-type]
        assert int(gradient.flatten(1).any(1).sum()) == reached


def test_steps_are_augmented_each_in_its_own_way() -> None:
    images = torch.randn(6, *SHAPE)
    made = wandering(count=1, epochs=2)
    options = {"student_steps": 1, "max_start_epoch": 0}
    plain, changed = (matching(made, **options, augmentation=a) for a in (None, SiameseAugmentation(saturation=0)))
    seeds: list[int] = []

    def noting(seed: int) -> Synthetic:
        seeds.append(seed)
        return drawing(images)(seed)

    for seed in range(8):
        found = changed.loss(REAL, noting, seed)
        by_hand = SiameseAugmentation(saturation=0)(images, seeds[-1])
        assert torch.equal(found, plain.loss(REAL, drawing(by_hand), seed))


def test_the_rate_is_trained_in_a_group_of_its_own_and_stays_positive() -> None:
    assert matching(wandering(), learn_lr=False).parameter_groups() == []
    matcher = matching(wandering(), lr_lr=3.0)
    optimizer = torch.optim.SGD(matcher.parameter_groups(), lr=100.0, weight_decay=0.5)
    (group,) = optimizer.param_groups
    assert (group["params"], group["lr"], group["weight_decay"]) == ([matcher.log_student_lr], 3.0, 0.0)
    matcher.loss(REAL, drawing(torch.randn(3, *SHAPE)), 0).backward()
    optimizer.step()
    assert 0 < matcher.student_lr.item() != pytest.approx(0.05)


def test_checkpoints_and_copies_have_no_experts() -> None:
    matcher = matching(wandering())
    assert list(matcher.state_dict()) == ["log_student_lr"]
    assert pickle.loads(pickle.dumps(TrajectoryMatching())).experts is None


def test_autocast_changes_nothing() -> None:
    matcher, images = matching(wandering()), torch.randn(6, *SHAPE)
    loss = matcher.loss(REAL, drawing(images), 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss, matcher.loss(REAL, drawing(images), 0))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"student_steps": 0}, "student_steps is 0"),
        ({"expert_epochs": 0}, "expert_epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_start_epoch": -1}, "max_start_epoch is -1"),
        ({"student_lr": 0.0}, "student_lr is 0"),
        ({"lr_lr": float("nan")}, "lr_lr is nan"),
        ({"max_start_epoch": 3}, "need experts of 5 epochs.*have 4"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        matching(wandering(), **options)


def test_experts_of_other_data_or_at_rest_are_refused() -> None:
    matcher = matching(wandering())
    for shape, classes in (((3, 8, 8), CLASSES), (SHAPE, 4)):
        with pytest.raises(ConfigError, match="Train experts on the same data"):
            matcher.start(shape, classes, 0)
    assert matcher.experts is not None
    matcher.experts.info["split"] = {"validation_fraction": 0.0}
    with pytest.raises(ConfigError, match=r"'validation_fraction': 0.0.*these have .*'validation_fraction': 0.1"):
        matcher.check_source({"split": {"validation_fraction": 0.1}, "mean": [0.5]})
    matcher.check_source({"split": {"validation_fraction": 0.0}, "mean": [0.5]})
    weights = wandering().weights
    weights[1, 3] = weights[1, 1]
    with pytest.raises(ConfigError, match="Expert 1 .* 2 epochs after epoch 1"):
        matching(experts(weights))
    with pytest.raises(ArtifactError, match=r"nowhere.safetensors does not exist.*distill/experts"):
        TrajectoryMatching("nowhere.safetensors").start(SHAPE, CLASSES, 0)


def test_distillation_of_digits_comes_nearer_to_the_experts(tmp_path: Path) -> None:
    digits = DigitsDataModule(batch_size=64)
    task = ExpertsTask(
        lambda p: torch.optim.SGD(p, lr=0.05),
        experts=2,
        epochs_per_expert=3,
        width=8,
        depth=2,
        output_dir=str(tmp_path),
        image_shape=(1, 8, 8),
    )
    quiet_trainer(max_epochs=6).fit(task, datamodule=digits)

    def matcher(lr: float = 0.1) -> TrajectoryMatching:
        path = str(tmp_path / PATH)
        return TrajectoryMatching(path, student_steps=5, expert_epochs=1, max_start_epoch=2, student_lr=lr)

    trained = matcher()
    distillation = DistillTask(
        PlainImages(1),
        matcher=trained,
        optimizer=lambda p: torch.optim.SGD(p, lr=10.0, momentum=0.5),
        output_dir=str(tmp_path),
    )
    module = ClassBalancedDataModule(digits, images_per_class=1, steps_per_epoch=10)
    quiet_trainer(max_epochs=2).fit(distillation, datamodule=module)
    start = PlainImages(1)
    start.start(*module.training_images(), 10, torch.Generator().manual_seed(0))

    def loss(scheme: Scheme, lr: float) -> float:
        fresh = matcher(lr)
        fresh.start((1, 8, 8), 10, 0)
        return sum(fresh.loss(REAL, scheme.draw, seed).item() for seed in range(100, 105)) / 5

    scheme = Proxy.load(tmp_path / "proxy.safetensors").scheme
    learned = trained.student_lr.item()
    assert learned != pytest.approx(0.1)
    assert loss(scheme, learned) < 0.6 * min(loss(start, learned), loss(start, 0.1)) < 1
