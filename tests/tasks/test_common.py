import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_nas.tasks.common import EpochMeans, last_checkpoint, last_good
from tests.helpers import quiet_trainer


class Both(LightningModule):
    """Logs the same numbers through Lightning in every batch and through the means in every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.means = EpochMeans()
        self.seen: list[tuple[float, float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        value = batch.mean() + self.current_epoch
        self.means.add({"train/loss": value}, len(batch))
        self.log("lightning", value, on_step=False, on_epoch=True, batch_size=len(batch), sync_dist=True)

    def on_train_epoch_end(self) -> None:
        self.means.log(self)

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.filterwarnings("ignore:.*returned `None`.*")
def test_means_are_those_that_lightning_would_log() -> None:
    values = torch.arange(10.0) ** 2  # batches of 4, 4 and 2
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(Both(), DataLoader(values, batch_size=4))  # type: ignore[arg-type]  # a tensor is a data set
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(float(values.mean()) + 1)
    assert trainer.callback_metrics["train/loss"] == trainer.callback_metrics["lightning"]


def test_a_metric_that_some_batches_lack_is_weighted_by_those_it_has() -> None:
    means = EpochMeans()
    logged: dict[str, tuple[Tensor, int]] = {}
    task = LightningModule()
    task.trainer = quiet_trainer()
    task.log = lambda name, value, batch_size, **_: logged.update({name: (value, batch_size)})  # type: ignore
    loss = torch.tensor(1.0, requires_grad=True)
    means.add({"a": loss, "b": torch.tensor(3.0)}, 2)
    means.add({"a": torch.tensor(4.0)}, 1)
    means.log(task)
    assert {name: (float(value), n) for name, (value, n) in logged.items()} == {"a": (2.0, 3), "b": (3.0, 2)}
    assert not logged["a"][0].requires_grad
    assert not means.sums


def test_the_last_good_checkpoint_is_a_file_that_exists(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, save_last=True)
    trainer = quiet_trainer(enable_checkpointing=True, callbacks=[keep])
    assert last_good(trainer) == "There is no earlier checkpoint."
    files = {name: tmp_path / f"{name}.ckpt" for name in ("best", "last", "interrupted")}
    keep.best_model_path, keep.last_model_path = str(files["best"]), str(files["last"])
    assert last_good(trainer) == "There is no earlier checkpoint."
    for age, name in enumerate(("interrupted", "last", "best"), start=-3):
        files[name].touch()
        os.utime(files[name], (1e9 + age, 1e9 + age))
    for name in ("best", "last", "interrupted"):  # from the newest on
        assert last_good(trainer) == f"The last good checkpoint is {files[name]}."
        assert last_checkpoint(trainer) == files[name]
        files[name].unlink()
    assert last_checkpoint(trainer) is None
