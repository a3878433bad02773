"""Faults of disks, losses and worker processes are found early and reported clearly, and lose nothing."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nas.__main__ import main
from lightning_nas.callbacks.run_folder import RunFolder, check_room, lock
from lightning_nas.cli.lightning import run
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.data.sets import Batch, ImageSet
from lightning_nas.errors import ArtifactError, ConfigError, DataError, TrainingError
from lightning_nas.files.artifacts import write_bytes
from lightning_nas.tasks.bilevel import BilevelTask
from tests.callbacks.test_preemption import STAGES, config, write
from tests.helpers import FixedHalves, quiet_trainer
from tests.pipeline.test_run import arguments
from tests.tasks.test_bilevel import make


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Lets no file of this process grow larger than some bytes: writing fails midway, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class NoStep(Callback):
    """Fails the test if a batch is trained on."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Not to be reached."""
        raise AssertionError("the training started")


NO_STEP = {"class_path": "tests.callbacks.test_run_folder.NoStep"}


def fit(task: BilevelTask, folder: Path, *callbacks: Callback) -> Trainer:
    keep = ModelCheckpoint(folder / "kept", "last", enable_version_counter=False)
    trainer = quiet_trainer(
        max_epochs=3, precision="64-true", enable_checkpointing=True, callbacks=[keep, RunFolder(), *callbacks]
    )
    trainer.fit(task, datamodule=FixedHalves())
    return trainer


def test_a_full_disk_is_found_before_the_first_step(tmp_path: Path, limit: Callable[[int], None]) -> None:
    limit(50_000)
    with pytest.raises(ConfigError, match=r"(out|kept) has no room for .* MiB of checkpoints \(File too large\)"):
        fit(make(tmp_path / "out"), tmp_path, NoStep())


class Fill(Callback):
    """Leaves no room from the second epoch on."""

    def __init__(self, limit: Callable[[int], None]) -> None:
        self.limit = limit

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Limit the files."""
        if trainer.current_epoch == 1:
            self.limit(50_000)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tmp_path: Path, limit: Callable[[int], None]) -> None:
    with pytest.raises(
        ArtifactError, match=r"last\.ckpt cannot be written .*The file that was there before is unharmed"
    ):
        fit(make(tmp_path), tmp_path, Fill(limit))
    assert (tmp_path / "kept" / "last.ckpt").stat().st_size > 50_000
    assert torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["epoch"] == 0
    assert [p.name for p in (tmp_path / "kept").glob("*") if not p.name.startswith(".lightning")] == ["last.ckpt"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path, limit: Callable[[int], None]) -> None:
    path = write_bytes(tmp_path / "a.bin", b"old")
    limit(50_000)
    with pytest.raises(ArtifactError, match=r"a\.bin cannot be written \(File too large\)"):
        write_bytes(path, b"new" * 50_000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="cannot write to .*out"):
        fit(make(tmp_path / "out" / "below"), tmp_path, NoStep())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="cannot write to .*Permission denied"):
        fit(make(tmp_path / "out"), tmp_path, NoStep())


def test_reserved_space_is_freed(tmp_path: Path) -> None:
    check_room(tmp_path, 10_000)
    assert not list(tmp_path.iterdir())


def test_a_second_run_on_a_folder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    args = write(tmp_path, STAGES["distill"], NO_STEP)
    held = lock(tmp_path)
    with pytest.raises(SystemExit, match="ConfigError: Another run is writing to"):
        main(args)
    held.release()
    main(write(tmp_path, STAGES["distill"]))
    lock(tmp_path).release()  # the run has released it


def test_a_run_that_failed_releases_its_folder(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the training started"):
        fit(make(tmp_path), tmp_path, NoStep())
    lock(tmp_path).release()
    lock(tmp_path / "kept").release()


def test_a_second_pipeline_in_a_folder_is_refused(tmp_path: Path) -> None:
    with lock(tmp_path / "run", ".pipeline.lock"), pytest.raises(SystemExit, match="Another run is writing to"):
        main(["pipeline", *arguments(tmp_path / "run")])
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".pipeline.lock"]


# losses that are not finite


class Poison(Callback):
    """Makes one number of the network infinite or not a number.

    Args:
        epoch: In which epoch.
        batch: Before which batch.
        value: What it becomes.
        after: Whether after that batch instead.
    """

    def __init__(self, epoch: int, batch: int, value: float = float("nan"), after: bool = False) -> None:
        self.moment = epoch, batch
        self.value = value
        self.after = after

    def _act(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.moment:
            broken = next(pl_module.parameters()).data
            broken[(0,) * broken.ndim] = self.value

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before a batch."""
        if not self.after:
            self._act(trainer, pl_module, batch_idx)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """After a batch."""
        if self.after:
            self._act(trainer, pl_module, rest[-1])


def kept_is_finite(folder: Path, epoch: int) -> None:
    found = torch.load(folder / "kept" / "last.ckpt", weights_only=True)
    assert found["epoch"] == epoch
    assert all(bool(v.isfinite().all()) for v in found["state_dict"].values())


def test_a_search_loss_that_is_not_a_number_stops_the_search(tmp_path: Path) -> None:
    message = (
        r"search/loss, on the search half, became nan in epoch 1 at batch 2\. The last good checkpoint is .*last\.ckpt"
    )
    with pytest.raises(TrainingError, match=message):
        fit(make(tmp_path), tmp_path, Poison(1, 2))
    kept_is_finite(tmp_path, 0)
    assert not (tmp_path / "architecture.json").exists()


def test_while_alphas_rest_it_is_the_train_half(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"train/loss, on the train half, became nan in epoch 0 at batch 1\. There is no"
    ):
        fit(make(tmp_path, warmup_epochs=2), tmp_path, Poison(0, 1))


def test_parameters_that_are_not_finite_never_replace_a_checkpoint(tmp_path: Path) -> None:
    """Broken after the last batch of an epoch, no loss has met them yet."""
    with pytest.raises(TrainingError, match=r"parameters, the first .*, are not finite after batch 2 of epoch 1"):
        fit(make(tmp_path), tmp_path, Poison(1, 2, float("inf"), after=True))
    kept_is_finite(tmp_path, 0)


@pytest.mark.parametrize("stage", ["distill", "train"])
def test_every_stage_stops_at_such_a_loss(stage: str, tmp_path: Path) -> None:
    poison = {"class_path": "tests.callbacks.test_run_folder.Poison", "init_args": {"epoch": 1, "batch": 1}}
    with pytest.raises(SystemExit, match=r"TrainingError: train/loss, .* became nan in epoch 1 at batch 1"):
        main(write(tmp_path, STAGES[stage], poison))
    kept_is_finite(tmp_path, 0)
    if stage == "distill":
        from lightning_nas.distill.proxy import Proxy

        assert bool(Proxy.load(tmp_path / "proxy.safetensors").images.isfinite().all())


# workers


class DyingImages(ImageSet):
    """Images whose reader is killed, as by a system that is out of memory."""

    def __getitems__(self, indices: list[int]) -> Batch:
        """Kill the process that reads."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


class DyingDataModule(ArrayDataModule):
    """An npz that cannot be read from."""

    def load_train(self) -> ImageSet:
        """The images of the file."""
        images = super().load_train()
        return DyingImages(images.images, images.labels, images.class_names)


def test_a_worker_that_dies_is_named_with_its_remedy(tmp_path: Path) -> None:
    import yaml

    made = config(tmp_path, STAGES["train"])
    made["data"]["class_path"] = "tests.callbacks.test_run_folder.DyingDataModule"
    made["data"]["init_args"]["num_workers"] = 1
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(made))
    with pytest.raises(DataError, match=r"A process that reads images has died: .*num_workers"):
        run(["fit", "--config", str(tmp_path / "run.yaml")])
