"""Distillation as a task: training, resuming, and what is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import Tensor

from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.data.class_balanced import ClassBalancedDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.distill.base import ProxyRegularizer, Scheme
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.contrast import AdversarialContrast
from lightning_nas.distill.difficulty import DifficultySelection
from lightning_nas.distill.distribution import DistributionMatching
from lightning_nas.distill.gradient import GradientMatching
from lightning_nas.distill.images import Noise, PlainImages, RandomSubset
from lightning_nas.distill.proxy import Proxy
from lightning_nas.distill.relation_matching import RelationMatching
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.errors import ConfigError
from lightning_nas.tasks.distill import DistillTask
from tests.helpers import quiet_trainer


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    return DigitsDataModule()


SCHEMES: dict[str, tuple[Any, list[Any]]] = {
    "scheme 1": (
        lambda: HallucinatedBases(3, hallucinators=3, hallucinator_lr=0.01),
        [lambda: AdversarialContrast(width=4, depth=1), lambda: RelationMatching(width=4, depth=1)],
    ),
    "scheme 2": (
        lambda: RelationMappings(8, mappings=6, mapping_lr=0.01),
        [lambda: RelationMatching(width=4, depth=1)],
    ),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_schemes_are_trained_resumed_and_written_as_they_are_stored(
    name: str, tmp_path: Path, digits: DigitsDataModule
) -> None:
    make, regularizers = SCHEMES[name]

    def task(folder: str) -> DistillTask:
        return DistillTask(
            make(),
            matcher=DistributionMatching(width=4, depth=1),
            optimizer=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5),
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


def test_bits_change_what_is_written_and_not_the_training(tmp_path: Path, digits: DigitsDataModule) -> None:
    def fit(folder: str, bits: int, epochs: int, ckpt_path: Path | None = None) -> tuple[Trainer, DistillTask]:
        task = DistillTask(
            HallucinatedBases(2, hallucinators=2, selection=DifficultySelection(width=4, depth=1, epochs=1)),
            matcher=DistributionMatching(width=4, depth=1),
            optimizer=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5),
            bits=bits,
            output_dir=str(tmp_path / folder),
        )
        trainer = quiet_trainer(max_epochs=epochs)
        data = ClassBalancedDataModule(digits, images_per_class=8, steps_per_epoch=2)
        trainer.fit(task, datamodule=data, ckpt_path=ckpt_path)
        return trainer, task

    (_, floats), (_, whole) = fit("floats", 32, 2), fit("whole", 3, 2)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in floats.state_dict().items())
    first, _ = fit("parts", 3, 1)
    first.save_checkpoint(tmp_path / "first.ckpt")
    fit("parts", 3, 2, tmp_path / "first.ckpt")
    written = {folder: tmp_path / folder / "proxy.safetensors" for folder in ("whole", "parts", "floats")}
    assert written["whole"].read_bytes() == written["parts"].read_bytes()
    proxy, before = Proxy.load(written["whole"]), Proxy.load(written["floats"])
    assert (proxy.bits, before.bits) == (3, 32)
    assert proxy.info["stored_bytes"] == sum(t.numel() * t.element_size() for t in load_file(written["whole"]).values())
    assert proxy.info["stored_bytes"] < before.info["stored_bytes"] / 8
    pictures = load_file(tmp_path / "whole" / "pictures.safetensors")["proxy"][0, 0]
    shown = (proxy.images[0] * proxy.std[0] + proxy.mean[0]).clamp(0, 1)
    torch.testing.assert_close(pictures, shown)
    with pytest.raises(ConfigError, match="bits is 9; it must be one of 2, 3, 4, 5, 6, 7, 8, 16, 32"):
        DistillTask(PlainImages(2), bits=9)


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
            matcher=GradientMatching(width=4, depth=1, network_steps=2, reset_every=3),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5),
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
        PlainImages(2),
        matcher=Worse(width=4, depth=1),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        output_dir=str(tmp_path),
    )
    quiet_trainer(max_epochs=3).fit(task, datamodule=data)
    kept = Proxy.load(tmp_path / "proxy.safetensors")
    assert kept.info["epochs"] == 1
    assert not torch.equal(kept.images, task.scheme.proxy().images)
    assert kept.info["split"] == {"train_limit": None, "validation_fraction": 0.0, "split_seed": 0}
    # one that goes on in another folder and finds no better one has it, too
    task.trainer.save_checkpoint(tmp_path / "third.ckpt")
    again = DistillTask(
        PlainImages(2),
        matcher=Worse(width=4, depth=1),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        output_dir=str(tmp_path / "new"),
    )
    quiet_trainer(max_epochs=4).fit(again, datamodule=data, ckpt_path=str(tmp_path / "third.ckpt"))
    moved = Proxy.load(tmp_path / "new" / "proxy.safetensors")
    assert torch.equal(moved.images, kept.images)
    assert moved.info == kept.info
    assert not torch.equal(again.scheme.proxy().images, task.scheme.proxy().images)


def test_a_distillation_in_float64_makes_a_proxy_that_can_be_read(tmp_path: Path, digits: DigitsDataModule) -> None:
    data = ClassBalancedDataModule(digits, images_per_class=8, steps_per_epoch=2)
    matcher, sgd = DistributionMatching(width=4, depth=1), lambda p: torch.optim.SGD(p, lr=0.1)
    task = DistillTask(PlainImages(2), matcher=matcher, optimizer=sgd, output_dir=str(tmp_path))
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


def data(digits: DigitsDataModule, steps: int = 3) -> ClassBalancedDataModule:
    return ClassBalancedDataModule(digits, images_per_class=16, steps_per_epoch=steps)


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
        matcher=DistributionMatching(width=16, depth=2),
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5),
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
        matcher.start((1, 8, 8), 10, 0)
        with torch.no_grad():
            return sum(float(matcher.loss((images, labels), scheme.draw, seed)) for seed in range(100, 110))

    assert distance(proxy.scheme) < 0.7 * distance(start)


def test_a_run_gone_on_with_equals_an_uninterrupted_one(tmp_path: Path, digits: DigitsDataModule) -> None:
    def make(folder: str) -> DistillTask:
        matcher = DistributionMatching(width=4, depth=1)
        return DistillTask(
            PlainImages(2),
            matcher=matcher,
            optimizer=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5),
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
        DistillTask(PlainImages(2), matcher=DistributionMatching())
    with pytest.raises(ConfigError, match="no matcher"):
        quiet_trainer(max_epochs=1).fit(DistillTask(PlainImages(2)), datamodule=data(digits))
    wrong = DistillTask(Noise(2), matcher=DistributionMatching(), optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    with pytest.raises(ConfigError, match="no trainable"):
        quiet_trainer(max_epochs=1).fit(wrong, datamodule=data(digits))
    for steps, per_class in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="at least 1"):
            ClassBalancedDataModule(digits, images_per_class=per_class, steps_per_epoch=steps)
