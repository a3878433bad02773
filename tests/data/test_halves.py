"""The halves of bi-level search, of real data modules and of proxies."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_nas.data.augmentation import Cutout, RandomCrop
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule, DigitsDataModule
from lightning_nas.errors import ConfigError, DataError
from tests.data.fake import Recorder, built_by_command_line, half, module, nearest, npz, pixels, rows
from tests.helpers import quiet_trainer


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


def test_the_command_line_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])
    crop = {"class_path": "RandomCrop", "init_args": {"padding": 1}}
    images = {"class_path": "ArrayDataModule", "init_args": {"path": npz(tmp_path), "augmentations": [crop]}}
    section = {"class_path": "HalvesDataModule", "init_args": {"batch_size": 7, "data": images}}
    built = built_by_command_line(section)
    assert (built.batch_size, built.num_classes) == (7, 3)
    assert built.data.augmentations[0].padding == 1
