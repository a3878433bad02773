"""A resumed run has the settings that it began with; a cosine schedule may get another length."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.callbacks.resume_check import ResumeCheck
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.errors import CheckpointError
from lightning_nas.files.checkpoints import CHECKPOINT_KEY
from tests.data.fake import Recorder, module
from tests.helpers import quiet_trainer


class Data(LightningDataModule):
    """Eight numbers."""

    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        """Batches of them."""
        return DataLoader(TensorDataset(torch.ones(8, 1)), self.batch_size)


class Line(LightningModule):
    """One weight, whose learning rate is noted in every epoch.

    Args:
        optimizer: Makes the optimizer.
        scheduler: Makes the scheduler; None for none.
    """

    def __init__(self, optimizer: Any, scheduler: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.make = optimizer, scheduler
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Note the learning rate at the start of an epoch."""
        if batch_idx == 0:
            self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return (self.weight * batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        """As given."""
        optimizer = self.make[0](self.parameters())
        return optimizer if self.make[1] is None else ([optimizer], [self.make[1](optimizer)])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As the command line does."""
        checkpoint[CHECKPOINT_KEY] = {"model": {"class_path": "Line"}}


def sgd(**options: Any) -> Any:
    return partial(SGD, **{"lr": 0.1, "momentum": 0.9, **options})


def cosine(length: int, **options: Any) -> Any:
    return partial(CosineAnnealingLR, T_max=length, **options)


def fit(epochs: int, optimizer: Any, scheduler: Any, resume: bool = False, batch_size: int = 2, **options: Any) -> Line:
    task = Line(optimizer, scheduler)
    keep: list[Callback] = [ResumeCheck(), ModelCheckpoint("kept", "last", enable_version_counter=False)]
    trainer = quiet_trainer(max_epochs=epochs, callbacks=keep, **{"enable_checkpointing": True, **options})
    trainer.fit(task, Data(batch_size), ckpt_path="kept/last.ckpt" if resume else None)
    return task


def test_a_cosine_schedule_follows_a_new_length(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = fit(6, sgd(), cosine(6, eta_min=0.001)).rates
    fit(2, sgd(), cosine(2, eta_min=0.001))
    assert fit(6, sgd(), cosine(6, eta_min=0.001), resume=True).rates == pytest.approx(whole[2:], rel=1e-12)


def test_an_unchanged_schedule_goes_on_to_the_last_digit(tmp_path: Path) -> None:
    whole = fit(4, sgd(), cosine(4))
    fit(2, sgd(), cosine(4))
    part = fit(4, sgd(), cosine(4), resume=True)
    assert part.rates == whole.rates[2:]
    assert torch.equal(part.weight, whole.weight)


def sequence(length: int) -> Any:
    def make(optimizer: Any) -> Any:
        return SequentialLR(optimizer, [LinearLR(optimizer), CosineAnnealingLR(optimizer, length)], [1])

    return make


CHANGES: dict[str, tuple[Any, Any, Any, Any, str]] = {
    "lr": (sgd(), None, sgd(lr=0.2), None, r"lr of SGD is 0\.1 in the checkpoint, 0\.2 here"),
    "lr of a schedule": (sgd(), cosine(2), sgd(lr=0.2), cosine(4), r"lr of SGD is 0\.1 in the checkpoint, 0\.2 here"),
    "momentum": (sgd(), None, sgd(momentum=0.5), None, r"momentum of SGD is 0\.9 in the checkpoint, 0\.5 here"),
    "betas": (Adam, None, partial(Adam, betas=(0.5, 0.9)), None, "betas of Adam is"),
    "groups": (sgd(), None, lambda p: SGD([{"params": p}, {"params": [torch.ones(1)]}], 0.1), None, "1 parameter grou"),
    "gamma": (sgd(), partial(StepLR, step_size=1), sgd(), partial(StepLR, step_size=2), "step_size of StepLR is 1 in"),
    "eta_min": (sgd(), cosine(2), sgd(), cosine(4, eta_min=0.01), r"eta_min of CosineAnnealingLR is 0"),
    "total_steps": (
        *(sgd(), partial(OneCycleLR, max_lr=0.1, total_steps=8)),
        *(sgd(), partial(OneCycleLR, max_lr=0.1, total_steps=16), "total_steps of OneCycleLR is 8"),
    ),
    "within": (sgd(), sequence(2), sgd(), sequence(4), "T_max of CosineAnnealingLR is 2 in the checkpoint, 4 here"),
    "none": (sgd(), cosine(2), sgd(), None, "it has 1 schedulers, this run has 0"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_settings_that_a_checkpoint_would_override_are_refused(name: str, tmp_path: Path) -> None:
    *before, optimizer, scheduler, said = CHANGES[name]
    fit(2, *before)
    with pytest.raises(CheckpointError, match=said):
        fit(4, optimizer, scheduler, resume=True)


@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_a_task_without_an_optimizer_goes_on(tmp_path: Path) -> None:
    class Still(Line):
        """Trains nothing."""

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            """Nothing."""

        def configure_optimizers(self) -> None:
            """None."""

    def run(epochs: int, path: str | None) -> int:
        keep: list[Callback] = [ResumeCheck(), ModelCheckpoint("kept", "last", enable_version_counter=False)]
        trainer = quiet_trainer(max_epochs=epochs, callbacks=keep, enable_checkpointing=True)
        trainer.fit(Still(None, None), Data(), ckpt_path=path)
        return trainer.current_epoch

    assert [run(1, None), run(3, "kept/last.ckpt")] == [1, 3]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch_size": 4}, "batch size: 2 in the checkpoint, 4 here; batches per epoch: 4 in the checkpoint, 2 here"),
        ({"limit_train_batches": 3}, "batches per epoch: 4 in the checkpoint, 3 here"),
        ({"accumulate_grad_batches": 2}, "accumulated batches: 1 in the checkpoint, 2 here"),
    ],
)
def test_other_sizes_are_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    fit(2, sgd(), None)
    with pytest.raises(CheckpointError, match=said):
        fit(4, sgd(), None, resume=True, **changed)


def test_images_may_not_change_sides(tmp_path: Path) -> None:
    def run(epochs: int, path: str | None, **options: Any) -> None:
        keep: list[Callback] = [ResumeCheck(), ModelCheckpoint("kept", "last", enable_version_counter=False)]
        task = Recorded()
        trainer = quiet_trainer(max_epochs=epochs, callbacks=keep, enable_checkpointing=True)
        trainer.fit(task, HalvesDataModule(module(tmp_path), **{"batch_size": 4, **options}), ckpt_path=path)

    run(1, None)
    run(2, "kept/last.ckpt")
    with pytest.raises(CheckpointError, match=r"division of the images: .*'search_split_seed': 0.* in the checkpoint"):
        run(3, "kept/last.ckpt", split_seed=1)


class Recorded(Recorder):
    """As the command line saves it."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As the command line does."""
        checkpoint[CHECKPOINT_KEY] = {"model": {"class_path": "Recorded"}}
