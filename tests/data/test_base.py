"""What a task sees of a data module's images: which, in which order, how often, and changed in which way."""

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
from torch import Tensor

from lightning_nas.data.augmentation import Augmentation, Cutout, RandomCrop, RandomFlip
from lightning_nas.data.images import (
    ArrayDataModule,
    DigitsDataModule,
)
from lightning_nas.data.sets import ImageSet
from lightning_nas.errors import ConfigError, DataError
from tests.data.fake import Recorder, arrays, module, npz
from tests.helpers import quiet_trainer

AUGMENTATIONS: list[Augmentation] = [RandomCrop(2), RandomFlip(), Cutout(2)]


def equal(first: list[Any], second: list[Any]) -> bool:
    """Whether two records of training batches are the same to the bit."""
    return len(first) == len(second) and all(
        a[:2] == b[:2] and all(torch.equal(x, y) for x, y in zip(a[2], b[2], strict=True))
        for a, b in zip(first, second, strict=True)
    )


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


def test_images_are_averaged_down(tmp_path: Path) -> None:
    whole, small = DigitsDataModule(), DigitsDataModule(image_size=4)
    for images, averaged in ((whole.train_set, small.train_set), (whole.load_test(), small.test_dataloader().dataset)):
        assert isinstance(images, ImageSet)
        assert isinstance(averaged, ImageSet)
        blocks = images.images.double().unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
        assert torch.equal(averaged.images, blocks.round().to(torch.uint8))
        assert torch.equal(averaged.labels, images.labels)
    assert small.image_shape == (1, 4, 4)
    with pytest.raises(DataError, match="Images of 8x8 pixels, ImageSet, cannot be downsampled to image_size 9"):
        _ = DigitsDataModule(image_size=9).train_set
    with pytest.raises(ConfigError, match="image_size is 0"):
        DigitsDataModule(image_size=0)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"validation_fraction": 1.0}, ConfigError, "validation_fraction is 1.0"),
        ({"train_limit": 0}, ConfigError, "train_limit is 0"),
        ({"train_limit": 2}, DataError, "no image of the classes.*Set train_limit to at least 3"),
        ({"validation_fraction": 0.01}, DataError, "0.01 of 24 images is less than one image"),
        ({"validation_fraction": 0.99}, DataError, "Lower validation_fraction, which is 0.99"),
    ],
)
def test_impossible_parts(tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _ = module(tmp_path, **options).train_set


def test_validate_without_a_validation_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation_fraction is 0\. Set it above 0"):
        quiet_trainer().validate(Recorder(), module(tmp_path), verbose=False)
