"""Image data modules: what they load, in which order, how often, and what a task sees of it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import Tensor

from lightning_nas.data.augmentation import Augmentation, Cutout, RandomCrop, RandomFlip
from lightning_nas.data.images import (
    ArrayDataModule,
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FolderDataModule,
    FolderSet,
    ImageSet,
)
from lightning_nas.errors import ConfigError, DataError
from tests.data.fake import Recorder, arrays, cifar, folders, module, npz, pixels
from tests.helpers import quiet_trainer

AUGMENTATIONS: list[Augmentation] = [RandomCrop(2), RandomFlip(), Cutout(2)]


def equal(first: list[Any], second: list[Any]) -> bool:
    """Whether two records of training batches are the same to the bit."""
    return len(first) == len(second) and all(
        a[:2] == b[:2] and all(torch.equal(x, y) for x, y in zip(a[2], b[2], strict=True))
        for a, b in zip(first, second, strict=True)
    )


# sources


def test_digits_are_whole_real_and_split_by_class() -> None:
    data = DigitsDataModule()
    assert (data.num_classes, data.image_shape) == (10, (1, 8, 8))
    assert data.class_names == [str(i) for i in range(10)]
    train, test = data.load_train(), data.load_test()
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.dtype == torch.uint8
    assert int(train.images.max()) == 255
    for part, share in ((train, 0.8), (test, 0.2)):
        counts = torch.bincount(part.labels) / torch.bincount(torch.from_numpy(load_digits().target))
        assert float((counts - share).abs().max()) < 0.01
    both = torch.cat([train.images, test.images]).flatten(1)
    whole = torch.from_numpy(load_digits().images * 255 / 16).round().to(torch.uint8).flatten(1)
    assert sorted(both.tolist()) == sorted(whole.tolist())


def test_arrays_keep_pixels_names_and_statistics(tmp_path: Path) -> None:
    content = arrays()
    data = ArrayDataModule(npz(tmp_path, classes=np.array(["cat", "dog", "owl"])))
    assert (data.num_classes, data.image_shape, data.class_names) == (3, (3, 8, 8), ["cat", "dog", "owl"])
    for part, images in (("train", data.load_train()), ("test", data.load_test())):
        assert np.array_equal(images.images.permute(0, 2, 3, 1).numpy(), content[f"x_{part}"])
        assert np.array_equal(images.labels.numpy(), content[f"y_{part}"])
    scaled = content["x_train"].astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, scaled.std((0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_does_not_divide_by_zero(tmp_path: Path) -> None:
    x = pixels(24)
    x[..., 1] = 51
    data = ArrayDataModule(npz(tmp_path, x_train=x))
    assert data.mean[1] == pytest.approx(0.2)
    assert data.std[1] == 1.0
    images, _ = data.prepare(data.train_set.__getitems__([0, 1]))
    assert torch.isfinite(images).all()
    assert float(images[:, 1].abs().max()) < 1e-6


def test_folders_in_memory_and_streamed_are_the_same(tmp_path: Path) -> None:
    images = {f"train/{name}": pixels(4, seed=i) for i, name in enumerate("cab")}
    images |= {f"test/{name}": pixels(4, seed=i) for i, name in enumerate("abc")}
    root = folders(tmp_path / "root", images)
    memory, stream = (FolderDataModule(root, image_size=8, stream=stream) for stream in (None, True))
    assert isinstance(memory.load_train(), ImageSet)
    assert isinstance(stream.load_train(), FolderSet)
    assert memory.class_names == stream.class_names == ["a", "b", "c"]
    assert (memory.mean, memory.std) == (stream.mean, stream.std)
    for part in ("load_train", "load_test"):
        one, two = (getattr(data, part)() for data in (memory, stream))
        (pixels_one, labels_one), (pixels_two, labels_two) = (s.__getitems__([11, 0, 4]) for s in (one, two))
        assert torch.equal(pixels_one, pixels_two)
        assert labels_one.tolist() == labels_two.tolist() == [2, 0, 1]
    original = torch.from_numpy(images["train/a"][0]).permute(2, 0, 1)
    assert torch.equal(memory.load_train()[0][0], original)


def test_folder_images_of_any_size_and_mode_fit(tmp_path: Path) -> None:
    from PIL import Image

    for name, mode, size in (("a", "L", (20, 10)), ("b", "RGBA", (5, 30)), ("b", "P", (8, 8))):
        (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 1).save(tmp_path / "train" / name / f"{mode}.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    data = FolderDataModule(str(tmp_path), image_size=8)
    assert tuple(data.load_train().__getitems__([0, 1, 2])[0].shape) == (3, 3, 8, 8)


def test_workers_decode_what_the_main_process_does(tmp_path: Path) -> None:
    root = folders(tmp_path / "root", {f"train/{name}": pixels(4, seed=i) for i, name in enumerate("ab")})
    seen = []
    for workers in (0, 1):
        data = FolderDataModule(root, 8, stream=True, batch_size=3, num_workers=workers)
        seen.append([(images, labels) for images, labels in data.train_dataloader()])
    for one, two in zip(*seen, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize(("kind", "classes"), [(CIFAR10DataModule, 10), (CIFAR100DataModule, 100)])
def test_cifar_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, classes: int) -> None:
    known = kind(str(tmp_path / "missing"), download=False)
    assert (known.num_classes, known.image_shape) == (classes, (3, 32, 32))  # without files
    files = cifar(tmp_path, monkeypatch, classes)
    data = kind(str(tmp_path), batch_size=4)
    assert data.class_names == [f"name {i}" for i in range(classes)]
    assert np.array_equal(data.load_test().images.permute(0, 2, 3, 1).numpy(), list(files.values())[-1])
    assert len(data.load_train()) == classes * (len(files) - 1)
    assert np.array_equal(data.load_train().images[0].permute(1, 2, 0).numpy(), next(iter(files.values()))[0])
    assert data.mean == list(kind.channel_mean)
    assert data.std == list(kind.channel_std)
    data.prepare_data()


# parts and order


def test_train_limit_is_balanced_and_nested(tmp_path: Path) -> None:
    y = np.array([0] * 15 + [1] * 7 + [2] * 2)
    kept = []
    for limit, counts in ((3, [1, 1, 1]), (9, [4, 3, 2]), (24, [15, 7, 2]), (100, [15, 7, 2])):
        data = ArrayDataModule(npz(tmp_path, y_train=y), train_limit=limit)
        assert torch.bincount(data.train_set.labels).tolist() == counts
        kept.append({tuple(image.flatten().tolist()) for image in data.train_set.images})  # type: ignore[attr-defined]
        assert data.mean == ArrayDataModule(npz(tmp_path, y_train=y)).mean  # of all training images
    assert kept[0] < kept[1] < kept[2] == kept[3]
    other = ArrayDataModule(npz(tmp_path, y_train=y), train_limit=9, split_seed=1).train_set
    assert kept[1] != {tuple(image.flatten().tolist()) for image in other.images}  # type: ignore[attr-defined]


def test_validation_is_a_stratified_part_of_training(tmp_path: Path) -> None:
    data = module(tmp_path, validation_fraction=0.25)
    held_out = next(iter(data.val_dataloader()))[0], next(iter(data.val_dataloader()))[1]
    batches = list(data.val_dataloader())
    labels = torch.cat([labels for _, labels in batches])
    assert torch.bincount(labels).tolist() == [2, 2, 2]
    assert held_out[0].shape == (4, 3, 8, 8)
    parts = [data.train_set.images.flatten(1), torch.cat([x for x, _ in batches]).flatten(1)]  # type: ignore[attr-defined]
    assert sorted(torch.cat(parts).tolist()) == sorted(module(tmp_path).train_set.images.flatten(1).tolist())  # type: ignore[attr-defined]


# under a trainer


@pytest.mark.parametrize("workers", [0, 1])
def test_runs_and_resumed_runs_see_identical_batches(tmp_path: Path, workers: int) -> None:
    options: dict[str, Any] = {
        "augmentations": AUGMENTATIONS,
        "validation_fraction": 0.25,
        "num_workers": workers,
    }
    seen = {}
    for name in ("first", "second"):
        task = Recorder()
        keep = ModelCheckpoint(tmp_path / name, "{epoch}", save_top_k=-1)
        trainer = quiet_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[keep])
        trainer.fit(task, module(tmp_path, **options))
        seen[name] = task.seen["train"]
    resumed = Recorder()
    keep = ModelCheckpoint(tmp_path / "first", "{epoch}", save_top_k=-1)
    trainer = quiet_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(resumed, module(tmp_path, **options), ckpt_path=tmp_path / "first" / "epoch=0.ckpt")
    assert len(seen["first"]) == 3 * 4
    assert equal(seen["first"], seen["second"])
    assert equal(seen["first"][4:], resumed.seen["train"])
    other = Recorder()
    quiet_trainer(max_epochs=1).fit(other, module(tmp_path, seed=1, **options))
    assert not equal(seen["first"][:4], other.seen["train"])


def test_draws_differ_by_epoch_batch_and_process(tmp_path: Path) -> None:
    data = module(tmp_path, augmentations=AUGMENTATIONS)
    same = torch.full((8, 3, 8, 8), 200, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    same[0][:, :, ::2, ::3] = 10

    def draw(epoch: int, batch: int, rank: int) -> Tensor:
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_idx=batch - 1))
        data.trainer = SimpleNamespace(  # type: ignore[assignment]  # all that the hook asks for
            training=True,
            current_epoch=epoch,
            fit_loop=loop,
            global_rank=rank,
            precision_plugin=SimpleNamespace(convert_input=lambda images: images),
        )
        images: Tensor = data.on_after_batch_transfer(same, 0)[0]
        return images

    assert torch.equal(draw(0, 0, 0), draw(0, 0, 0))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not torch.equal(draw(0, 0, 0), draw(*other))


def test_only_training_is_augmented_and_all_is_normalised(tmp_path: Path) -> None:
    task = Recorder()
    data = module(tmp_path, augmentations=[Cutout(20)], validation_fraction=0.25)
    trainer = quiet_trainer(max_epochs=1, num_sanity_val_steps=1)
    trainer.fit(task, data)
    trainer.test(task, data, verbose=False)
    trainer.predict(task, data)
    assert all(float(batch[0].abs().max()) == 0 for _, _, batch in task.seen["train"])  # cut out whole
    content = arrays()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    expected = (torch.from_numpy(content["x_test"]).permute(0, 3, 1, 2) / 255 - mean) / std
    for stage in ("test", "predict"):
        assert [len(labels) for _, labels in task.seen[stage]] == [4, 3]
        torch.testing.assert_close(torch.cat([x for x, _ in task.seen[stage]]), expected)
        assert torch.cat([y for _, y in task.seen[stage]]).tolist() == content["y_test"].tolist()
    assert len(task.seen["val"]) == 3  # one for the sanity check
    assert all(float(images.abs().max()) > 1 for images, _ in task.seen["val"])
    assert all(labels.dtype == torch.int64 for _, labels in task.seen["val"])


def test_geometry_comes_before_and_cutout_after_normalisation(tmp_path: Path) -> None:
    seen: dict[str, Tensor] = {}

    class Note(Augmentation):
        def __init__(self, name: str, after: bool) -> None:
            self.name = name
            self.after_normalization = after

        def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
            seen[self.name] = images
            return images

    data = module(tmp_path, augmentations=[Note("after", True), Note("before", False)])
    raw = data.train_set.__getitems__([3, 1])
    images, _ = data.prepare(raw, torch.Generator())
    assert list(seen) == ["before", "after"]
    assert torch.equal(seen["before"], raw[0] / 255)
    assert torch.equal(seen["after"], images)
    assert raw[0].dtype == torch.uint8


def test_the_test_set_is_closed_until_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(tmp_path, validation_fraction=0.25)
    real, opened = np.lib.npyio.NpzFile.__getitem__, []

    def note(archive: Any, key: str) -> Any:
        opened.append(key)
        return real(archive, key)

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", note)
    trainer, task = quiet_trainer(max_epochs=1), Recorder()
    trainer.fit(task, data)
    trainer.validate(task, data, verbose=False)
    assert set(opened) == {"x_train", "y_train"}
    trainer.test(task, data, verbose=False)
    assert {"x_test", "y_test"} < set(opened)


def test_batches_take_the_precision_of_the_trainer(tmp_path: Path) -> None:
    task = Recorder()
    quiet_trainer(max_epochs=1, precision="64-true").fit(task, module(tmp_path, augmentations=AUGMENTATIONS))
    assert task.seen["train"][0][2][0].dtype == torch.float64
    assert task.seen["train"][0][2][1].dtype == torch.int64


def test_a_fit_without_validation_is_silent_and_leaves_the_trainer_alone(tmp_path: Path) -> None:
    task, trainer = Recorder(), quiet_trainer(max_epochs=1)
    trainer.fit(task, module(tmp_path))  # warnings are errors
    assert len(task.seen["train"]) == 6
    trainer.fit_loop.max_epochs = 2
    with pytest.raises(DataError, match="fewer than one batch"):
        trainer.fit(task, module(tmp_path, batch_size=25))
    trainer.fit(task, module(tmp_path, validation_fraction=0.25))
    assert task.seen["val"]


def test_overfitting_a_few_batches_works(tmp_path: Path) -> None:
    task = Recorder()
    with pytest.warns(UserWarning, match="You requested to overfit"):
        quiet_trainer(max_epochs=1, overfit_batches=2).fit(task, module(tmp_path))
    assert len(task.seen["train"]) == 2


class Linked(LightningModule):
    """What the command line links data to."""

    def __init__(self, num_classes: int = 0, image_shape: tuple[int, int, int] = (0, 0, 0)) -> None:
        super().__init__()
        self.linked = num_classes, image_shape


class LinkedCLI(LightningCLI):
    """The links of the command line."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Link as ``NASCLI`` does."""
        for name in ("num_classes", "image_shape"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")


def test_the_command_line_builds_and_links_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])
    arguments = [
        "--trainer.logger=false",
        "--data=lightning_nas.data.images.ArrayDataModule",
        f"--data.path={npz(tmp_path)}",
        "--data.batch_size=5",
        "--data.train_limit=9",
        "--data.augmentations+=lightning_nas.data.augmentation.RandomCrop",
        "--data.augmentations.padding=1",
        "--data.augmentations+=lightning_nas.data.augmentation.RandomFlip",
    ]
    options: dict[str, Any] = {"subclass_mode_data": True, "run": False, "seed_everything_default": False}
    options["save_config_callback"] = None
    cli = LinkedCLI(Linked, LightningDataModule, args=arguments, **options)
    assert cli.model.linked == (3, (3, 8, 8))
    assert [type(a).__name__ for a in cli.datamodule.augmentations] == ["RandomCrop", "RandomFlip"]
    assert cli.datamodule.augmentations[0].padding == 1
    assert len(cli.datamodule.train_set) == 9
    with pytest.raises(SystemExit):  # a misspelt name is an error
        LinkedCLI(Linked, LightningDataModule, args=[*arguments, "--data.limit=1"], **options)


# real images


@pytest.mark.data
@pytest.mark.skipif("LIGHTNING_NAS_DATA" not in os.environ, reason="set LIGHTNING_NAS_DATA to CIFAR's folder")
def test_real_cifar10(tmp_path: Path) -> None:
    folder = os.environ["LIGHTNING_NAS_DATA"]
    path = tmp_path / "cifar10.npz"
    subprocess.run([sys.executable, "read.py", "cifar10", str(path), "2000"], cwd=folder, check=True)
    data = ArrayDataModule(str(path), batch_size=64)
    assert (data.num_classes, data.image_shape) == (10, (3, 32, 32))
    assert data.class_names[:3] == ["airplane", "automobile", "bird"]
    assert torch.bincount(data.train_set.labels).tolist() == [200] * 10
    np.testing.assert_allclose(data.mean, CIFAR10DataModule.channel_mean, atol=0.01)
    np.testing.assert_allclose(data.std, CIFAR10DataModule.channel_std, atol=0.01)
    task = Recorder()
    quiet_trainer(max_epochs=1).fit(task, data)
    images = torch.cat([batch[0] for _, _, batch in task.seen["train"]])
    assert images.shape == (31 * 64, 3, 32, 32)
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02
    changed = Recorder()
    data = ArrayDataModule(str(path), batch_size=64, augmentations=[RandomCrop(), RandomFlip(), Cutout()])
    quiet_trainer(max_epochs=1).fit(changed, data)
    # the same images in the same order, without the 20% that a clipped square of half the side takes
    zero = torch.cat([batch[0] for _, _, batch in changed.seen["train"]]).eq(0).float().mean()
    assert 0.15 < float(zero) < 0.25
    for (_, _, (_, one)), (_, _, (_, two)) in zip(task.seen["train"], changed.seen["train"], strict=True):
        assert torch.equal(one, two)


def test_images_are_averaged_down(tmp_path: Path) -> None:
    whole, small = DigitsDataModule(), DigitsDataModule(image_size=4)
    for images, averaged in ((whole.train_set, small.train_set), (whole.load_test(), small._test)):
        assert isinstance(images, ImageSet)
        assert isinstance(averaged, ImageSet)
        blocks = images.images.double().unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
        assert torch.equal(averaged.images, blocks.round().to(torch.uint8))
        assert torch.equal(averaged.labels, images.labels)
    assert small.image_shape == (1, 4, 4)
    with pytest.raises(DataError, match="Images of 8x8 pixels, ImageSet, cannot be averaged down to image_size 9"):
        _ = DigitsDataModule(image_size=9).train_set
    with pytest.raises(ConfigError, match="image_size is 0"):
        DigitsDataModule(image_size=0)
