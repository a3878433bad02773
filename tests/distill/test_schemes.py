"""Schemes against their formulas, and what is trained beside them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.data.class_balanced import ClassBalancedDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Proxy, ProxyRegularizer, Scheme
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.contrast import AdversarialContrast, supervised_contrast
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.coresets import Herding, KCenter
from lightning_nas.distill.distribution import DistributionMatching
from lightning_nas.distill.gradient import GradientMatching
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.relation_matching import RelationMatching
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.tasks.distill import DistillTask
from tests.helpers import distances, quiet_trainer, started

X, Y = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


# Scheme 1


def test_a_hallucinator_has_the_published_size() -> None:
    scheme = started(HallucinatedBases(1, 5), torch.randn(20, 3, 32, 32), torch.arange(20) % 10)
    shared = sum(p.numel() for name, p in scheme.named_parameters() if name != "bases")
    assert shared == 5 * 5568
    assert scheme.stored_bytes == 4 * (10 * 3 * 32 * 32 + 5 * 5568) + 8 * 10


@pytest.mark.parametrize("options", [{}, {"base_channels": 1, "downscale": 2, "width": 5, "nonlinear": True}])
def test_every_pair_is_that_hallucinator_of_that_base(options: dict[str, Any]) -> None:
    scheme = started(HallucinatedBases(4, 5, **options), X, Y)
    made = scheme.proxy()
    assert made.images.shape == (60, 3, 8, 8)
    for b in (0, 7):
        for h in (0, 4):
            x = scheme.get_parameter("bases")[b : b + 1]
            if options:
                x = nn.Upsample(scale_factor=2, mode="bilinear")(x)
            part = {name: scheme.get_parameter(name)[h] for name in scheme.parameter_names[1:]}
            x = F.conv2d(x, part["encode"], part["encode_bias"]) * part["scale"] + part["shift"]
            x = F.conv_transpose2d(x.relu() if options else x, part["decode"], part["decode_bias"])
            torch.testing.assert_close(made.images[5 * b + h], x[0])
            assert made.groups[5 * b + h] == b
            assert made.labels[5 * b + h] == scheme.get_buffer("labels")[b]


@pytest.mark.parametrize(
    "options", [{}, {"width": 3}, {"width": 7}, {"nonlinear": True}, {"width": 7, "nonlinear": True}]
)
def test_without_noise_hallucinators_start_as_the_identity_inside(options: dict[str, Any]) -> None:
    x = X.clamp(-2.4)
    scheme = started(HallucinatedBases(4, 2, noise=0.0, **options), x, Y)
    images = scheme.proxy().images.unflatten(0, (12, 2))[..., 1:-1, 1:-1]
    bases = scheme.get_parameter("bases")[:, None, :, 1:-1, 1:-1]
    torch.testing.assert_close(images, bases.expand_as(images))
    noisy = started(HallucinatedBases(4, 2), X, Y).proxy().images.unflatten(0, (12, 2))
    assert not torch.allclose(noisy[:, 0], noisy[:, 1], atol=0.01)


def test_a_step_draws_one_hallucinator_for_all_bases_and_all_in_turn() -> None:
    scheme = started(HallucinatedBases(2, 3), X, Y)
    pairs = scheme.proxy().images.unflatten(0, (6, 3))
    seen = set()
    for seed in range(20):
        drawn = scheme.draw(seed).images
        (which,) = [h for h in range(3) if torch.allclose(drawn, pairs[:, h], atol=1e-6)]
        seen.add(which)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("count", [5, 6, 8])
def test_hallucinators_meet_all_changes(count: int) -> None:
    """The draw of a step and its augmentation have the same seed, but must not have the same random numbers."""
    scheme = started(HallucinatedBases(1, count, noise=1.0), X, Y)
    pairs = scheme.proxy().images.unflatten(0, (3, count))
    change, met = SiameseAugmentation(), set()

    def noted(number: int) -> Any:
        return lambda images, _: torch.full_like(images, number)

    change._changes = [noted(number) for number in range(6)]
    for seed in range(600):
        drawn = scheme.draw(seed).images
        (which,) = [h for h in range(count) if torch.allclose(drawn, pairs[:, h], atol=1e-5)]
        met.add((which, float(change(drawn, seed)[0, 0, 0, 0])))
    assert len(met) == count * 6


# Scheme 2


def test_mappings_combine_the_bases_of_their_bank() -> None:
    scheme = started(RelationMappings(bases=6, mappings=4, downscale=2), X, Y)
    made = scheme.proxy()
    bases, mappings = scheme.get_parameter("bases"), scheme.get_parameter("mappings")
    assert made.images.shape == (12, 3, 8, 8)
    n = 0
    for bank in range(2):
        for c in range(3):
            for i in range(2):
                image = sum(mappings[bank, c, i, k] * bases[3 * bank + k] for k in range(3))
                image = nn.Upsample(scale_factor=2, mode="bilinear")(image[None])[0]
                torch.testing.assert_close(made.images[n], image)
                assert (int(made.labels[n]), int(made.groups[n])) == (c, bank)
                n += 1


def test_mappings_start_as_the_best_approximation_of_real_images() -> None:
    full = started(RelationMappings(bases=30, mappings=10, banks=1), X, Y).proxy().images.detach().flatten(1)
    assert distances(full, X).min(1).values.max() < 1e-3  # real images, each another
    assert len(distances(full, X).argmin(1).unique()) == 30
    errors = []
    for bases in (2, 6, 12):
        scheme = started(RelationMappings(bases=bases, mappings=10, banks=1), X, Y)
        error = (scheme.proxy().images.flatten(1) - full).detach().square().sum()
        best = torch.linalg.svdvals(full.double())[bases:].square().sum()
        assert float(error) == pytest.approx(float(best), rel=1e-4)
        errors.append(float(error))
    assert errors == sorted(errors, reverse=True)
    assert float(scheme.get_parameter("bases").detach().square().mean()) == pytest.approx(1.0, rel=1e-4)


def test_soft_labels_follow_the_likeness_of_the_classes() -> None:
    images = torch.randn(60, 1, 8, 8)
    images[Y == 1] += 2
    images[Y == 2] += 2  # the last two classes are alike
    made = started(RelationMappings(bases=4, mappings=4, softness=0.3), images, Y).proxy()
    assert made.targets is not None
    rows = {int(c): row for c, row in zip(made.labels, made.targets, strict=True)}
    torch.testing.assert_close(torch.stack([rows[c][c] for c in range(3)]), torch.full((3,), 0.7))
    assert rows[1][2] > rows[1][0]
    assert rows[2][1] > rows[2][0]
    assert started(RelationMappings(bases=4, mappings=4, softness=0), images, Y).proxy().targets is None


# controls


def features(n: int = 40) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(3))


def test_herding_is_the_greedy_choice_written_out() -> None:
    found, chosen = Herding().pick(features(), 6).tolist(), []
    for _ in range(6):
        rest = [i for i in range(40) if i not in chosen]
        distance = {i: float((features()[[*chosen, i]].mean(0) - features().mean(0)).norm()) for i in rest}
        chosen.append(min(rest, key=distance.__getitem__))
    assert found == chosen


def test_k_center_takes_the_farthest_written_out() -> None:
    x = features()
    chosen = [int((x - x.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < 6:
        chosen.append(int(torch.cdist(x, x[chosen]).min(1).values.argmax()))
    assert KCenter().pick(x, 6).tolist() == chosen
    assert sorted(KCenter().pick(torch.zeros(5, 6), 5).tolist()) == [0, 1, 2, 3, 4]


# siamese augmentation

CHANGES: list[dict[str, Any]] = [
    {"flip": 1.0},
    {"shift": 0.25},
    {"scale": 1.5},
    {"rotation": 40.0},
    {"cutout": 0.5},
    {"brightness": 1.0, "saturation": 2.0, "contrast": 0.5},
]
OFF = dict.fromkeys(("flip", "shift", "scale", "rotation", "cutout", "brightness", "saturation", "contrast"), 0.0)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_all_images_get_the_same_differentiable_change(change: dict[str, Any]) -> None:
    augment = SiameseAugmentation(**{**OFF, **change})
    x = X[:6].double().requires_grad_()
    changed = augment(x, 5)
    assert changed.shape == x.shape
    assert not torch.equal(changed, x)
    for i in range(6):  # whatever the batch
        torch.testing.assert_close(augment(x[i : i + 1], 5)[0], changed[i])
    assert torch.autograd.gradcheck(lambda y: augment(y, 5), X[:1, :, :4, :4].double().requires_grad_())
    before = torch.get_rng_state()
    others = [augment(x, seed) for seed in range(6)]
    assert torch.equal(before, torch.get_rng_state())
    assert "flip" in change or not all(torch.equal(other, changed) for other in others)


def test_changes_are_what_they_are_called() -> None:
    x = X[:2]
    assert torch.equal(SiameseAugmentation(**{**OFF, "flip": 1.0})(x, 0), x.flip(3))
    assert SiameseAugmentation(**OFF)(x, 0) is x
    cut = SiameseAugmentation(**{**OFF, "cutout": 0.5})
    shares = [float((cut(torch.ones(1, 1, 8, 8), seed) == 0).float().mean()) for seed in range(20)]
    assert max(shares) == 0.25
    assert min(shares) > 0
    shift = SiameseAugmentation(**{**OFF, "shift": 0.25})
    shifted = [shift(x, seed) for seed in range(10)]
    for y in shifted:
        rolled = [x.roll((a, b), (2, 3)) for a in range(-2, 3) for b in range(-2, 3)]
        assert any(bool(((y == r) | (y == 0)).all()) for r in rolled)
    half_turn = SiameseAugmentation(**{**OFF, "rotation": 180.0})
    for seed in range(5):  # lengths don't grow
        assert half_turn(x, seed).abs().max() <= x.abs().max() + 1e-5
    grey = torch.ones(1, 3, 4, 4)
    bright = SiameseAugmentation(**{**OFF, "brightness": 1.0})
    values = torch.stack([bright(grey, seed) for seed in range(50)])
    assert values.min() >= 0.5
    assert values.max() <= 1.5
    assert values.std() > 0.2


# regularizers


def test_the_relations_are_mean_cosine_similarities_of_all_pairs() -> None:
    scheme = started(RelationMappings(bases=6, mappings=6, mappings_per_step=None), X, Y)
    torch.manual_seed(derived_seed(9, "relations"))
    embed = ConvNet((3, 8, 8), 1, 4, 2).features
    centre = embed(X).mean(0)
    made = scheme.proxy()
    matrices = []
    for images, labels in ((X, Y), (made.images, made.labels)):
        f = F.normalize(embed(images) - centre, dim=1)
        pairs = [[(f[labels == a] @ f[labels == b].t()).mean() for b in range(3)] for a in range(3)]
        matrices.append(torch.stack([torch.stack(row) for row in pairs]))
    expected = 0.5 * (matrices[0] - matrices[1]).square().mean()
    found = RelationMatching(weight=0.5, width=4, depth=2).loss((X, Y), scheme, seed=9)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert scheme.get_parameter("mappings").grad.any()  # type: ignore[union-attr]


def test_the_contrast_of_the_paper_written_out() -> None:
    f, labels = features(8), torch.tensor([0, 1, 0, 1, 2, 2, 0, 1])
    unit = F.normalize(f, dim=1)
    terms = []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        total = sum(torch.exp(unit[i] @ unit[j] / 0.1) for j in others)
        logs = [torch.log(torch.exp(unit[i] @ unit[j] / 0.1) / total) for j in others if labels[j] == labels[i]]
        terms.append(-sum(logs) / len(logs))
    torch.testing.assert_close(supervised_contrast(f, labels), torch.stack(terms).mean())


def test_the_feature_network_learns_that_pairs_agree_and_hallucinators_that_they_differ() -> None:
    scheme = started(HallucinatedBases(4, 2), X, Y)
    contrast = AdversarialContrast(width=8, depth=2, learning_rate=0.1)
    contrast.start((3, 8, 8), 3, 0)
    before = {name: p.clone() for name, p in contrast.network.named_parameters()}
    similar = [float(contrast.loss((X, Y), scheme, seed).detach()) for seed in range(30)]
    assert similar[-1] > 1.05 * similar[0]
    assert all(not torch.equal(p, before[name]) for name, p in contrast.network.named_parameters())
    with torch.no_grad():
        hits = (contrast.network(scheme.proxy().images).argmax(1) == scheme.proxy().labels).float().mean()
    assert hits > 0.8
    still = AdversarialContrast(width=8, depth=2, learning_rate=1e-12)
    still.start((3, 8, 8), 3, 0)
    still.network = contrast.network
    optimizer = torch.optim.SGD(scheme.parameter_groups(), lr=5.0)
    apart = []
    for seed in range(10):
        optimizer.zero_grad()
        loss = still.loss((X, Y), scheme, seed)
        loss.backward()
        optimizer.step()
        apart.append(float(loss.detach()))
    assert apart[-1] < 0.97 * apart[0]
    with pytest.raises(ConfigError, match="needs HallucinatedBases"):
        contrast.loss((X, Y), started(PlainImages(2), X, Y), 0)
    with pytest.raises(ConfigError, match="two hallucinators"):
        contrast.loss((X, Y), started(HallucinatedBases(2, 1), X, Y), 0)


# with the task


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    return DigitsDataModule()


SCHEMES: dict[str, tuple[Any, list[Any]]] = {
    "scheme 1": (
        lambda: HallucinatedBases(3, 3, hallucinator_lr=0.01),
        [lambda: AdversarialContrast(width=4, depth=1), lambda: RelationMatching(width=4, depth=1)],
    ),
    "scheme 2": (lambda: RelationMappings(8, 6, mapping_lr=0.01), [lambda: RelationMatching(width=4, depth=1)]),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_are_trained_resumed_and_written_as_they_are_stored(
    name: str, tmp_path: Path, digits: DigitsDataModule
) -> None:
    make, regularizers = SCHEMES[name]

    def task(folder: str) -> DistillTask:
        return DistillTask(
            make(),
            DistributionMatching(width=4, depth=1),
            lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5),
            regularizers=[r() for r in regularizers],
            output_dir=str(tmp_path / folder),
        )

    def data() -> ClassBalancedDataModule:
        return ClassBalancedDataModule(digits, images_per_class=8, steps_per_epoch=3)

    whole = task("whole")
    quiet_trainer(max_epochs=3).fit(whole, datamodule=data())
    rates = [group["lr"] for group in whole.trainer.optimizers[0].param_groups]
    assert rates[:2] == [1.0, 0.01]
    first = quiet_trainer(max_epochs=1)
    first.fit(task("parts"), datamodule=data())
    first.save_checkpoint(tmp_path / "first.ckpt")
    quiet_trainer(max_epochs=3).fit(task("parts"), datamodule=data(), ckpt_path=str(tmp_path / "first.ckpt"))
    one, two = (Proxy.load(tmp_path / folder / "proxy.safetensors") for folder in ("whole", "parts"))
    assert torch.equal(one.images, two.images)
    begun = make()
    begun.start(*data().training_images(), 10, torch.Generator().manual_seed(0))
    for parameter, value in begun.named_parameters():
        changed = not torch.equal(value, one.scheme.get_parameter(parameter))
        assert changed == (parameter != "relations"), parameter  # this matcher looks at no labels
    assert one.info["stored_bytes"] == one.scheme.stored_bytes < one.images.numel() * 4
    assert one.info["proxy_images"] == len(one.images)


class Fail(Callback):
    """Fails in the second epoch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before its third batch."""
        if (trainer.current_epoch, batch_idx) == (1, 2):
            raise RuntimeError("the machine broke")


def test_within_an_epoch_a_matcher_that_keeps_a_network_goes_on_too(tmp_path: Path, digits: DigitsDataModule) -> None:
    def fit(folder: str, *callbacks: Callback, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        task = DistillTask(
            PlainImages(2),
            GradientMatching(width=4, depth=1, network_steps=2, reset_every=3),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5),
            output_dir=str(tmp_path / folder),
        )
        data = ClassBalancedDataModule(digits, images_per_class=8, steps_per_epoch=4)
        keep = ModelCheckpoint(tmp_path / "kept", "last", enable_version_counter=False)
        trainer = quiet_trainer(max_epochs=2, enable_checkpointing=True, callbacks=[keep, *callbacks])
        trainer.fit(task, datamodule=data, ckpt_path=ckpt_path)
        return task.state_dict()

    whole = fit("whole")
    with pytest.raises(RuntimeError, match="the machine broke"):
        fit("parts", PreemptionCheckpoint(every_n_batches=1), Fail())
    resumed = fit("parts", PreemptionCheckpoint(), ckpt_path=tmp_path / "kept" / "last.ckpt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_the_best_proxy_so_far_is_on_disk(tmp_path: Path, digits: DigitsDataModule) -> None:
    class Worse(DistributionMatching):
        """From the second epoch on the loss is larger."""

        def loss(self, real: Any, draw: Any, seed: int) -> Tensor:
            return super().loss(real, draw, seed) * (1 if seed < 2 else 1000)

    data = ClassBalancedDataModule(digits, images_per_class=8, steps_per_epoch=2)
    task = DistillTask(
        PlainImages(2), Worse(width=4, depth=1), lambda p: torch.optim.SGD(p, lr=0.1), output_dir=str(tmp_path)
    )
    quiet_trainer(max_epochs=3).fit(task, datamodule=data)
    kept = Proxy.load(tmp_path / "proxy.safetensors")
    assert kept.info["epochs"] == 1
    assert not torch.equal(kept.images, task.scheme.proxy().images)
    assert kept.info["split"] == {"train_limit": None, "validation_fraction": 0.0, "split_seed": 0}
    # one that goes on in another folder and finds no better one has it, too
    task.trainer.save_checkpoint(tmp_path / "third.ckpt")
    again = DistillTask(
        PlainImages(2), Worse(width=4, depth=1), lambda p: torch.optim.SGD(p, lr=0.1), output_dir=str(tmp_path / "new")
    )
    quiet_trainer(max_epochs=4).fit(again, datamodule=data, ckpt_path=str(tmp_path / "third.ckpt"))
    moved = Proxy.load(tmp_path / "new" / "proxy.safetensors")
    assert torch.equal(moved.images, kept.images)
    assert moved.info == kept.info
    assert not torch.equal(again.scheme.proxy().images, task.scheme.proxy().images)


def test_a_distillation_in_float64_makes_a_proxy_that_can_be_read(tmp_path: Path, digits: DigitsDataModule) -> None:
    data = ClassBalancedDataModule(digits, images_per_class=8, steps_per_epoch=2)
    matcher, sgd = DistributionMatching(width=4, depth=1), lambda p: torch.optim.SGD(p, lr=0.1)
    task = DistillTask(PlainImages(2), matcher, sgd, output_dir=str(tmp_path))
    quiet_trainer(max_epochs=1, precision="64-true").fit(task, datamodule=data)
    made = Proxy.load(tmp_path / "proxy.safetensors").images
    assert made.dtype == torch.float32
    assert torch.equal(made, task.scheme.proxy().images.float())


class Elsewhere(ProxyRegularizer):
    def loss(self, real: Any, scheme: Scheme, seed: int) -> Tensor:
        return torch.zeros(())


def test_a_control_takes_no_regularizers() -> None:
    with pytest.raises(ConfigError, match="regularizers need a matcher"):
        DistillTask(PlainImages(2), regularizers=[Elsewhere()])


# bad input


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: HallucinatedBases(0), "bases_per_class is 0"),
        (lambda: HallucinatedBases(2, -1), "hallucinators is -1"),
        (lambda: HallucinatedBases(2, downscale=0), "downscale is 0"),
        (lambda: HallucinatedBases(2, noise=-1.0), "noise is -1"),
        (lambda: started(HallucinatedBases(21), X, Y), "bases_per_class is 21; it must be from 1 to 20"),
        (lambda: started(HallucinatedBases(2, base_channels=2), X, Y), "base_channels is 2; it must be 1 or 3"),
        (lambda: RelationMappings(5, 4), "bases is 5; it must be a positive multiple of banks"),
        (lambda: started(HallucinatedBases(2, width=2), X, Y), "images of 3 channels need at least so many"),
        (lambda: RelationMappings(4, 0), "mappings is 0"),
        (lambda: RelationMappings(4, 4, banks=0), "banks is 0"),
        (lambda: RelationMappings(4, 4, softness=1.0), "softness is 1.0"),
        (lambda: RelationMappings(4, 4, mappings_per_step=0), "mappings_per_step is 0"),
        (lambda: started(RelationMappings(4, 22), X, Y), "mappings is 22; it must be from 1 to 20"),
        (lambda: started(RelationMappings(40, 4), X, Y), "more than 6 are of no use"),
        (lambda: Herding(2, steps=-1), "steps is -1"),
        (lambda: started(Herding(21, steps=0, width=2, depth=1), X, Y), "images_per_class is 21"),
        (lambda: SiameseAugmentation(flip=1.5), "flip is 1.5; it must be from 0 to 1.0"),
        (lambda: SiameseAugmentation(scale=0.5), "scale is 0.5; it must be 0, or from 1"),
        (lambda: AdversarialContrast(learning_rate=0.0), "learning_rate 0.0"),
        (lambda: RelationMatching(weight=-1), "weight is -1"),
        (lambda: DistributionMatching(networks=0), "networks is 0"),
    ],
)
def test_impossible_settings_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


@pytest.mark.parametrize("scheme", [HallucinatedBases(2, downscale=3), RelationMappings(4, 4, downscale=3)])
def test_images_that_cannot_be_stored_smaller_are_refused(scheme: Scheme) -> None:
    with pytest.raises(DataError, match="8x8 pixels cannot be stored at 1/3"):
        started(scheme, X, Y)
