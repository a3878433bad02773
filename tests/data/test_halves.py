"""The halves of bi-level search, of real data modules and of proxies."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from torch import Tensor

from lightning_nas.data.augmentation import Cutout, RandomCrop, RandomFlip
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule, DigitsDataModule
from lightning_nas.data.splits import halves, stratified
from lightning_nas.distill.base import Proxy
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.data_module import DistilledDataModule, ProxyDataModule
from lightning_nas.errors import ArtifactError, ConfigError, DataError
from tests.data.fake import Recorder, module, npz, pixels
from tests.helpers import quiet_trainer, started


def rows(images: Tensor) -> list[list[float]]:
    """Sorted pixels of the images, to compare sets of them."""
    return sorted(images.flatten(1).tolist())


def nearest(image: Tensor, images: Tensor) -> int:
    """Where in ``images`` the image is."""
    return int((images - image).abs().flatten(1).sum(1).argmin())


def half(data: HalvesDataModule, name: str) -> tuple[Tensor, Tensor]:
    """All images and labels of a half."""
    part = data.half(name)
    batch: Any = part.__getitems__(list(range(len(part))))
    return batch[0], batch[1]


@pytest.fixture
def proxy(tmp_path: Path) -> Callable[..., str]:
    """Writes a proxy of 3 classes with 4 bases each and 5 images a basis."""

    def write(bases: int = 4, images: int = 5, **changes: Any) -> str:
        generator = torch.Generator().manual_seed(0)
        sources = torch.randn(3 * bases, 2, 6, 6, generator=generator)
        scheme = started(HallucinatedBases(bases, images), sources, torch.arange(3).repeat_interleave(bases))
        whole = Proxy(scheme, ["a", "b", "c"], [0.3, 0.4], [0.1, 0.2], {})
        return str(replace(whole, **changes).save(tmp_path / "proxy.safetensors"))

    return write


# the split


@pytest.mark.parametrize(("n", "fraction", "search"), [(24, 0.5, 12), (25, 0.5, 12), (40, 0.25, 10), (100, 0.29, 29)])
def test_halves_are_disjoint_stratified_and_of_their_lengths(n: int, fraction: float, search: int) -> None:
    labels = torch.arange(n) % 3
    parts = halves(labels, None, fraction, seed=0)
    assert len(parts[1]) == search
    assert len(parts[0]) == (search if fraction == 0.5 else n - search)
    assert not set(parts[0].tolist()) & set(parts[1].tolist())
    for part, share in zip(parts, (1 - fraction, fraction), strict=True):
        counts = torch.bincount(labels[part])
        assert float((counts - share * torch.bincount(labels)).abs().max()) <= 1
    again, other = halves(labels, None, fraction, seed=0), halves(labels, None, fraction, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(parts[1], other[1])


def test_dealing_follows_the_fraction_for_unequal_classes() -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 3)
    dealt = stratified(labels, 0.5, seed=4)
    assert int(dealt.sum()) == 30
    assert torch.bincount(labels[dealt]).tolist() in ([25, 3, 2], [25, 4, 1])


def test_groups_stay_together_and_every_class_is_in_both_halves() -> None:
    labels = torch.arange(4).repeat_interleave(30)
    groups = torch.arange(4 * 6).repeat_interleave(5)
    shuffle = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    labels, groups = labels[shuffle], groups[shuffle]
    train, search = halves(labels, groups, 0.5, seed=0)
    assert len(train) == len(search) == 60
    assert not set(groups[train].tolist()) & set(groups[search].tolist())
    assert torch.bincount(labels[train]).tolist() == torch.bincount(labels[search]).tolist() == [15] * 4


def test_groups_that_hold_every_class_are_dealt_whole() -> None:
    groups, labels = torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4)
    train, search = halves(labels, groups, 0.5, seed=0)
    assert len(set(groups[train].tolist())) == len(set(groups[search].tolist())) == 2
    assert len(train) == len(search) == 6


def test_a_half_without_a_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"classes \[\d\].*two at least"):
        halves(torch.tensor([0, 0, 1, 1, 2]), None, 0.5, seed=0)
    with pytest.raises(DataError, match="groups of images"):
        halves(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]), 0.5, seed=0)


# halves of images


def test_it_forwards_what_the_images_know(tmp_path: Path) -> None:
    images = module(tmp_path, validation_fraction=0.25)
    data = HalvesDataModule(images, batch_size=3)
    for name in ("num_classes", "image_shape", "class_names", "mean", "std"):
        assert getattr(data, name) == getattr(images, name)
    parts = [half(data, name)[0] for name in ("train", "search")]
    assert [len(part) for part in parts] == [9, 9]
    assert rows(torch.cat(parts)) == rows(images.train_set.images)  # type: ignore[attr-defined]  # without validation
    with pytest.raises(ConfigError, match="'val'"):
        data.half("val")


def test_digits_halves_are_equal() -> None:
    data = HalvesDataModule(DigitsDataModule())
    assert [len(data.half(name)) for name in ("train", "search")] == [718, 718]


def test_training_batches_come_from_both_halves_once_an_epoch(tmp_path: Path) -> None:
    data = HalvesDataModule(module(tmp_path, train=30), batch_size=5)
    task = Recorder()
    quiet_trainer(max_epochs=2).fit(task, data)
    assert len(task.seen["train"]) == 2 * 3
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    orders = {}
    for name in ("train", "search"):
        images, labels = half(data, name)
        expected = (images / 255 - mean) / std
        for epoch in (0, 1):
            batches = [batch[name] for e, _, batch in task.seen["train"] if e == epoch]
            seen = torch.cat([x for x, _ in batches])
            assert rows(seen) == rows(expected)
            orders[name, epoch] = [nearest(x, expected) for x in seen]
            assert torch.cat([y for _, y in batches]).tolist() == labels[orders[name, epoch]].tolist()
    # places within their half: two halves in two epochs have four different orders
    assert len({tuple(places) for places in orders.values()}) == 4


def test_both_halves_are_augmented_by_draws_of_their_own(tmp_path: Path) -> None:
    images = np.tile(pixels(1), (24, 1, 1, 1))  # equal images, so that only the draws differ
    data = ArrayDataModule(npz(tmp_path, x_train=images), augmentations=[RandomCrop(3), Cutout(3)])
    runs = []
    for _ in range(2):
        task = Recorder()
        quiet_trainer(max_epochs=1).fit(task, HalvesDataModule(data, batch_size=6))
        runs.append(task.seen["train"])
    first = runs[0][0][2]
    assert not torch.equal(first["train"][0], first["search"][0])
    assert len(torch.unique(first["search"][0], dim=0)) > 1
    for one, two in zip(*runs, strict=True):
        assert all(torch.equal(one[2][name][0], two[2][name][0]) for name in ("train", "search"))


def test_evaluation_is_that_of_the_images(tmp_path: Path) -> None:
    images = module(tmp_path, augmentations=[Cutout(20)], validation_fraction=0.25)
    task, trainer = Recorder(), quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
    data = HalvesDataModule(images, batch_size=3)
    trainer.fit(task, data)
    trainer.test(task, data, verbose=False)
    trainer.predict(task, data)
    assert [len(labels) for _, labels in task.seen["val"]] == [4, 2]
    assert [len(labels) for _, labels in task.seen["test"]] == [4, 3]
    assert [len(labels) for _, labels in task.seen["predict"]] == [4, 3]
    assert all(float(x.abs().max()) > 1 for stage in ("val", "test", "predict") for x, _ in task.seen[stage])


def test_a_fraction_other_than_half_repeats_the_shorter(tmp_path: Path) -> None:
    data = HalvesDataModule(module(tmp_path, train=30), batch_size=3, search_fraction=0.2)
    assert [len(data.half(name)) for name in ("train", "search")] == [24, 6]
    assert len(list(data.train_dataloader())) == 8


def test_a_fixed_batch_is_fixed_mixed_and_plain(tmp_path: Path) -> None:
    data = HalvesDataModule(module(tmp_path, train=60, augmentations=[Cutout(20)]), batch_size=3)
    images, labels = data.fixed_batch("search", 20, seed=7)
    assert (images.shape, images.dtype, labels.dtype) == ((20, 3, 8, 8), torch.float32, torch.int64)
    assert torch.bincount(labels, minlength=3).min() >= 3
    assert labels.tolist() != sorted(labels.tolist())
    again = data.fixed_batch("search", 20, seed=7)
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    for other in (data.fixed_batch("search", 20, seed=8), data.fixed_batch("train", 20, seed=7)):
        assert not torch.equal(images, other[0])
    whole, _ = data.fixed_batch("search", 30, seed=0)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    assert rows(whole) == rows((half(data, "search")[0] / 255 - mean) / std)
    with pytest.raises(DataError, match="31 images is asked for, but the search half has 30"):
        data.fixed_batch("search", 31, seed=0)
    with pytest.raises(ConfigError, match="is 0"):
        data.fixed_batch("search", 0, seed=0)


def test_a_half_smaller_than_a_batch_fails_before_training(tmp_path: Path) -> None:
    task = Recorder()
    with pytest.raises(DataError, match="train half has 12 images.*at most 12"):
        quiet_trainer(max_epochs=1).fit(task, HalvesDataModule(module(tmp_path), batch_size=13))
    assert not task.seen["train"]


def test_wrong_arguments_name_the_value(tmp_path: Path) -> None:
    for options, text in (({"search_fraction": 1.0}, "is 1.0"), ({"batch_size": 0}, "is 0")):
        with pytest.raises(ConfigError, match=text):
            HalvesDataModule(module(tmp_path), **options)


# proxies


def test_a_proxy_is_split_by_class_and_group(proxy: Callable[..., str]) -> None:
    data = DistilledDataModule(proxy(), batch_size=6)
    assert (data.num_classes, data.image_shape, data.class_names) == (3, (2, 6, 6), ["a", "b", "c"])
    assert (data.mean, data.std) == ([0.3, 0.4], [0.1, 0.2])
    stored = Proxy.load(proxy()).synthetic
    groups = []
    for name in ("train", "search"):
        images, labels = half(data, name)
        assert torch.bincount(labels).tolist() == [10, 10, 10]
        places = [nearest(image, stored.images) for image in images]
        groups.append(set(stored.groups[places].tolist()))
    assert not groups[0] & groups[1]


def test_a_proxy_is_not_normalised_again(proxy: Callable[..., str]) -> None:
    data = DistilledDataModule(proxy(), batch_size=6)
    task = Recorder()
    quiet_trainer(max_epochs=1).fit(task, data)
    for name in ("train", "search"):
        seen = torch.cat([batch[name][0] for _, _, batch in task.seen["train"]])
        assert rows(seen) == rows(half(data, name)[0])
        assert rows(data.fixed_batch(name, 30, seed=0)[0]) == rows(half(data, name)[0])


def test_a_proxy_is_augmented_in_training(proxy: Callable[..., str]) -> None:
    seen = []
    for seed in (0, 0, 1):
        task = Recorder()
        data = DistilledDataModule(proxy(), 6, augmentations=[RandomCrop(2), RandomFlip()], seed=seed)
        quiet_trainer(max_epochs=1).fit(task, data)
        seen.append(torch.cat([batch["search"][0] for _, _, batch in task.seen["train"]]))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert rows(seen[0]) != rows(half(data, "search")[0])


def test_a_proxy_can_be_trained_on_whole_but_has_no_test(proxy: Callable[..., str]) -> None:
    data, task = ProxyDataModule(proxy(), batch_size=10), Recorder()
    quiet_trainer(max_epochs=1).fit(task, data)
    assert len(task.seen["train"]) == 6
    with pytest.raises(DataError, match="no test images"):
        quiet_trainer().test(task, data, verbose=False)


def test_bad_proxies_are_refused(proxy: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.safetensors does not exist"):
        _ = DistilledDataModule(str(tmp_path / "none.safetensors")).num_classes
    with pytest.raises(DataError, match="groups of images"):  # one basis a class cannot be in both halves
        DistilledDataModule(proxy(bases=1)).half("train")
    path = proxy()
    broken = Proxy.load(path)
    broken.scheme.get_parameter("bases").data[3, 0, 0, 0] = float("nan")
    broken.save(path)
    with pytest.raises(DataError, match="not finite"):
        _ = DistilledDataModule(path).num_classes
    Path(path).with_suffix(".json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(ArtifactError, match="class_names"):
        _ = DistilledDataModule(path).num_classes


def test_the_command_line_builds_both(
    tmp_path: Path, proxy: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])
    crop = {"class_path": "lightning_nas.data.augmentation.RandomCrop", "init_args": {"padding": 1}}
    images = {
        "class_path": "lightning_nas.data.images.ArrayDataModule",
        "init_args": {"path": npz(tmp_path), "augmentations": [crop]},
    }
    for name, init in (
        ("lightning_nas.data.halves.HalvesDataModule", {"data": images}),
        (
            "lightning_nas.distill.data_module.DistilledDataModule",
            {"proxy_path": proxy(), "augmentations": [crop]},
        ),
    ):
        config = tmp_path / "config.yaml"
        section = {"class_path": name, "init_args": {"batch_size": 7, **init}}
        config.write_text(json.dumps({"trainer": {"logger": False}, "data": section}))
        cli = LightningCLI(
            Recorder,
            LightningDataModule,
            subclass_mode_data=True,
            run=False,
            save_config_callback=None,
            seed_everything_default=False,
            args=["--config", str(config)],
        )
        assert (cli.datamodule.batch_size, cli.datamodule.num_classes) == (7, 3)
        assert cli.datamodule.data.augmentations[0].padding == 1
