"""Proxies as data: real held-out images beside them, some images of every group, soft labels, real test images."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_nas.data.augmentation import RandomCrop, RandomFlip
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.distill.base import Scheme
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.data_module import DistilledDataModule, GroupSampler, ProxyDataModule
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.proxy import Proxy
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.errors import ArtifactError, ConfigError, DataError
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.train import TrainTask
from tests.data.fake import Recorder, built_by_command_line, half, module, nearest, npz, rows
from tests.helpers import quiet_trainer, started


def real(folder: Path, **options: Any) -> ArrayDataModule:
    return module(folder, train=60, validation_fraction=0.2, **options)


def proxy(folder: Path, scheme: Scheme, **changes: Any) -> str:
    """A proxy of the part of the real images that is not held out."""
    data = real(folder)
    images, labels = data.prepare(data.train_set.__getitems__(list(range(len(data.train_set)))))
    kept: dict[str, Any] = {"class_names": data.class_names, "mean": data.mean, "std": data.std, "info": {}}
    return str(Proxy(started(scheme, images, labels), **{**kept, **changes}).save(folder / "proxy.safetensors"))


def test_the_search_half_can_be_held_out_real_images(tmp_path: Path) -> None:
    path = proxy(tmp_path, HallucinatedBases(2, hallucinators=3))
    data = DistilledDataModule(path, batch_size=4, held_out=real(tmp_path), augmentations=[RandomFlip(1.0)])
    assert len(data.half("train")) == 18
    assert len(data.half("search")) == 12
    source = real(tmp_path)
    held = source.validation_set.__getitems__(list(range(12)))
    images, labels = data.fixed_batch("search", 12, seed=0)
    expected = source.prepare(held)
    order = [int((expected[0] - image).abs().flatten(1).sum(1).argmin()) for image in images]
    assert sorted(order) == list(range(12))
    torch.testing.assert_close(images, expected[0][order])
    assert torch.equal(labels, expected[1][order])
    distilled_from = {tuple(i.flatten().tolist()) for i in source.train_set.__getitems__(list(range(48)))[0]}
    assert not distilled_from & {tuple(i.flatten().tolist()) for i in held[0]}
    # in a fit both halves come normalised and augmented
    task = Recorder()
    quiet_trainer(max_epochs=1).fit(task, data)
    seen = torch.cat([batch["search"][0] for _, _, batch in task.seen["train"]][:3])
    mirrored = {tuple(i.flatten().tolist()) for i in expected[0].flip(3).mul(100).round()}
    assert all(tuple(i.flatten().tolist()) in mirrored for i in seen.mul(100).round())


def test_held_out_images_must_be_of_the_same_kind(tmp_path: Path) -> None:
    path = proxy(tmp_path, PlainImages(3))
    with pytest.raises(DataError, match="no validation set"):
        DistilledDataModule(path, held_out=module(tmp_path)).half("search")
    other = proxy(tmp_path, PlainImages(3), class_names=["x", "y", "z"])
    with pytest.raises(DataError, match="has the classes .'x', 'y', 'z'"):
        DistilledDataModule(other, held_out=real(tmp_path)).half("search")
    with pytest.raises(DataError, match="has the classes"):
        ProxyDataModule(other, test=real(tmp_path)).test_dataloader()
    path = proxy(tmp_path, PlainImages(3))
    small = ArrayDataModule(npz(tmp_path, x_train=_small(24), x_test=_small(7)), validation_fraction=0.5)
    with pytest.raises(DataError, match="held-out images have shape"):
        DistilledDataModule(path, held_out=small).half("search")


def test_held_out_images_must_not_be_distilled_ones(tmp_path: Path) -> None:
    made = proxy(tmp_path, PlainImages(3), info={"split": real(tmp_path, split_seed=1).split})
    with pytest.raises(DataError, match=r"'split_seed': 1} leaves, .* held_out has .*'split_seed': 0"):
        DistilledDataModule(made, held_out=real(tmp_path)).half("search")
    assert len(DistilledDataModule(made, held_out=real(tmp_path, split_seed=1)).half("search")) == 12


def _small(n: int) -> Any:
    from tests.data.fake import pixels

    return pixels(n, size=4)


def test_an_epoch_can_see_some_images_of_every_group_drawn_afresh(tmp_path: Path) -> None:
    path = proxy(tmp_path, HallucinatedBases(2, hallucinators=5))
    made = Proxy.load(path).synthetic
    epochs = []
    for _ in range(2):
        data = DistilledDataModule(path, batch_size=3, held_out=real(tmp_path), images_per_group=2)
        task = Recorder()
        quiet_trainer(max_epochs=2).fit(task, data)
        seen: dict[int, list[int]] = {0: [], 1: []}
        for epoch, _, batch in task.seen["train"]:
            seen[epoch] += [int((made.images - x).abs().flatten(1).sum(1).argmin()) for x in batch["train"][0]]
        epochs.append(seen)
    assert epochs[0] == epochs[1]
    for places in epochs[0].values():
        assert len(set(places[:12])) == 12
        assert torch.bincount(made.groups[places[:12]]).tolist() == [2] * 6
    assert set(epochs[0][0][:12]) != set(epochs[0][1][:12])
    with pytest.raises(ConfigError, match="images_per_group is 0"):
        DistilledDataModule(path, images_per_group=0)


def test_ranks_share_a_group_sampler_and_passes_begin_in_the_middle() -> None:
    groups = torch.arange(40) // 4
    whole = list(GroupSampler(groups, 2, 1, 0, seed=3))
    assert len(whole) == 20
    ranks = [list(GroupSampler(groups, 2, 2, rank, seed=3)) for rank in (0, 1)]
    assert [i for pair in zip(*ranks, strict=True) for i in pair] == whole
    sampler = GroupSampler(groups, 2, 1, 0, seed=3)
    sampler.start = 5
    assert list(sampler) == whole[5:]
    assert list(sampler) == whole


def test_soft_labels_reach_the_loss_and_accuracies_take_the_likeliest(tmp_path: Path) -> None:
    path = proxy(tmp_path, RelationMappings(4, mappings=4, softness=0.3))
    made = Proxy.load(path).synthetic
    assert made.soft_labels is not None
    data = ProxyDataModule(path, batch_size=12, test=real(tmp_path))
    task = TrainTask(
        None,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
        network=lambda shape, classes: ConvNet(shape, classes, width=4, depth=1),
        num_classes=3,
        image_shape=(3, 8, 8),
    )
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(task, datamodule=data)
    logits = task(made.images)
    expected = -(made.soft_labels * logits.log_softmax(1)).sum(1).mean()
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    share = (logits.argmax(1) == made.labels).float().mean()
    assert float(trainer.callback_metrics["train/accuracy"]) == pytest.approx(float(share))
    halves = DistilledDataModule(path)
    for name in ("train", "search"):
        assert torch.bincount(halves.fixed_batch(name, 6, 0)[1].argmax(1)).tolist() == [2, 2, 2]
    (found,) = ShortTraining(halves, steps=2, batch_size=4, channels=4, cells=3).evaluate([DARTSSpace().largest()])
    assert found.objectives["loss"] > float(F.cross_entropy(torch.zeros(1, 3), made.soft_labels[:1])) / 10


def test_a_proxy_is_tested_on_real_images_normalised_as_its_source(tmp_path: Path) -> None:
    data = ProxyDataModule(proxy(tmp_path, PlainImages(3)), batch_size=4, test=real(tmp_path))
    task = Recorder()
    quiet_trainer().test(task, data, verbose=False)
    seen = torch.cat([images for images, _ in task.seen["test"]])
    source = real(tmp_path)
    source.setup("test")
    expected = torch.cat([source.prepare(batch)[0] for batch in source.test_dataloader()])
    torch.testing.assert_close(seen, expected)


def test_a_proxy_of_small_images_is_tested_on_small_images(tmp_path: Path) -> None:
    source = real(tmp_path, image_size=4)
    images, labels = source.prepare(source.train_set.__getitems__(list(range(len(source.train_set)))))
    made = Proxy(started(PlainImages(3), images, labels), source.class_names, source.mean, source.std, {})
    path = str(made.save(tmp_path / "proxy.safetensors"))
    task = Recorder()
    quiet_trainer().test(task, ProxyDataModule(path, batch_size=4, test=real(tmp_path, image_size=4)), verbose=False)
    seen = torch.cat([images for images, _ in task.seen["test"]])
    source.setup("test")
    assert seen.shape[2:] == (4, 4)
    torch.testing.assert_close(seen, torch.cat([source.prepare(batch)[0] for batch in source.test_dataloader()]))
    with pytest.raises(DataError, match=r"the training images \(3, 4, 4\)"):
        quiet_trainer().test(task, ProxyDataModule(path, batch_size=4, test=real(tmp_path)), verbose=False)


@pytest.fixture
def write_proxy(tmp_path: Path) -> Callable[..., str]:
    """Writes a proxy of 3 classes with 4 bases each and 5 images a basis."""

    def write(bases: int = 4, images: int = 5, **changes: Any) -> str:
        generator = torch.Generator().manual_seed(0)
        sources = torch.randn(3 * bases, 2, 6, 6, generator=generator)
        scheme = started(
            HallucinatedBases(bases, hallucinators=images), sources, torch.arange(3).repeat_interleave(bases)
        )
        whole = Proxy(scheme, ["a", "b", "c"], [0.3, 0.4], [0.1, 0.2], {})
        return str(replace(whole, **changes).save(tmp_path / "proxy.safetensors"))

    return write


def test_a_proxy_is_split_by_class_and_group(write_proxy: Callable[..., str]) -> None:
    data = DistilledDataModule(write_proxy(), batch_size=6)
    assert (data.num_classes, data.image_shape, data.class_names) == (3, (2, 6, 6), ["a", "b", "c"])
    assert (data.mean, data.std) == ([0.3, 0.4], [0.1, 0.2])
    stored = Proxy.load(write_proxy()).synthetic
    groups = []
    for name in ("train", "search"):
        images, labels = half(data, name)
        assert torch.bincount(labels).tolist() == [10, 10, 10]
        places = [nearest(image, stored.images) for image in images]
        groups.append(set(stored.groups[places].tolist()))
    assert not groups[0] & groups[1]


def test_a_proxy_is_not_normalised_again(write_proxy: Callable[..., str]) -> None:
    data = DistilledDataModule(write_proxy(), batch_size=6)
    task = Recorder()
    quiet_trainer(max_epochs=1).fit(task, data)
    for name in ("train", "search"):
        seen = torch.cat([batch[name][0] for _, _, batch in task.seen["train"]])
        assert rows(seen) == rows(half(data, name)[0])
        assert rows(data.fixed_batch(name, 30, seed=0)[0]) == rows(half(data, name)[0])


def test_a_proxy_is_augmented_in_training(write_proxy: Callable[..., str]) -> None:
    seen = []
    for seed in (0, 0, 1):
        task = Recorder()
        data = DistilledDataModule(write_proxy(), batch_size=6, augmentations=[RandomCrop(2), RandomFlip()], seed=seed)
        quiet_trainer(max_epochs=1).fit(task, data)
        seen.append(torch.cat([batch["search"][0] for _, _, batch in task.seen["train"]]))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert rows(seen[0]) != rows(half(data, "search")[0])


def test_a_proxy_can_be_trained_on_whole_but_has_no_test(write_proxy: Callable[..., str]) -> None:
    data, task = ProxyDataModule(write_proxy(), batch_size=10), Recorder()
    quiet_trainer(max_epochs=1).fit(task, data)
    assert len(task.seen["train"]) == 6
    with pytest.raises(DataError, match="no test images"):
        quiet_trainer().test(task, data, verbose=False)


def test_bad_proxies_are_refused(write_proxy: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.safetensors does not exist"):
        _ = DistilledDataModule(str(tmp_path / "none.safetensors")).num_classes
    with pytest.raises(DataError, match="groups of images"):  # one basis a class cannot be in both halves
        DistilledDataModule(write_proxy(bases=1)).half("train")
    path = write_proxy()
    broken = Proxy.load(path)
    broken.scheme.get_parameter("bases").data[3, 0, 0, 0] = float("nan")
    broken.save(path)
    with pytest.raises(DataError, match="not finite"):
        _ = DistilledDataModule(path).num_classes
    Path(path).with_suffix(".json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(ArtifactError, match="class_names"):
        _ = DistilledDataModule(path).num_classes


def test_the_command_line_builds_it(write_proxy: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])
    crop = {"class_path": "RandomCrop", "init_args": {"padding": 1}}
    options = {"batch_size": 7, "proxy_path": write_proxy(), "augmentations": [crop]}
    built = built_by_command_line({"class_path": "DistilledDataModule", "init_args": options})
    assert (built.batch_size, built.num_classes) == (7, 3)
    assert built.data.augmentations[0].padding == 1
