"""Faults of disks, losses and worker processes are found early and reported clearly, and lose nothing."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.__main__ import main
from lightning_nas.callbacks.run_folder import OWNERS, RunFolder, check_room
from lightning_nas.cli.lightning import run
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.data.sets import Batch, ImageSet
from lightning_nas.errors import ArtifactError, ConfigError, DataError, TrainingError
from lightning_nas.files.artifacts import write_bytes, write_json
from lightning_nas.files.checkpoints import CHECKPOINT_KEY
from lightning_nas.files.locks import lock
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import output_folder
from tests.callbacks.test_preemption import STAGES, config, write
from tests.data.fake import Recorder
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


# results of other runs


class Remote(Logger):
    """Logs to a server, like MLflow's logger, which has no folder.

    Args:
        version: Identity of the run on the server.
    """

    def __init__(self, version: str) -> None:
        super().__init__()
        self._version = version

    @property
    def name(self) -> str:
        """Name of the project."""
        return "project"

    @property
    def version(self) -> str:
        """Identity of the run."""
        return self._version

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Send them nowhere."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Send them nowhere."""


class Writes(Recorder):
    """Writes a file at the end.

    Args:
        output_dir: Folder of the file.
    """

    writes = ("result.json",)

    def __init__(self, output_dir: str | None) -> None:
        super().__init__()
        self.output_dir = output_dir

    def on_train_end(self) -> None:
        """Write the file."""
        self.path = write_json(
            output_folder(self.trainer, self.output_dir) / "result.json", {"id": os.urandom(8).hex()}
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As the command line does."""
        checkpoint[CHECKPOINT_KEY] = {"model": {"class_path": "Writes"}}


def write_result(
    folder: str | None, run: RunFolder, *others: Callback, resume: str | None = None, **options: Any
) -> Path:
    task = Writes(folder)
    trainer = quiet_trainer(**{"max_epochs": 1, "callbacks": [run, *others], **options})
    trainer.fit(task, DataLoader(TensorDataset(torch.ones(4, 1)), 2), ckpt_path=resume)
    return task.path


LOGGERS: dict[str, Callable[[], Any]] = {
    "none": lambda: False,
    "csv": lambda: CSVLogger("."),
    "server": lambda: Remote(os.urandom(4).hex()),
    "wandb": lambda: WandbLogger(save_dir=".", offline=True, id=os.urandom(4).hex()),
}


@pytest.mark.parametrize("name", [*LOGGERS, "trial"])
def test_every_run_has_a_folder_of_its_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WandbLogger, "experiment", None)  # starts no process
    for method in ("log_hyperparams", "log_metrics", "finalize"):
        monkeypatch.setattr(WandbLogger, method, lambda *args, **kwargs: None)
    trial = name == "trial"
    paths = [
        write_result(None, RunFolder(), logger=False if trial else LOGGERS[name](), fast_dev_run=trial).resolve()
        for _ in range(2)
    ]
    assert paths[0] != paths[1]
    assert all(path.is_file() and path.parent != tmp_path and path.is_relative_to(tmp_path) for path in paths)


def test_artifacts_of_another_run_are_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    first = write_result("out", RunFolder())
    before = first.read_bytes()
    with pytest.raises(ConfigError, match=r"out has result\.json of another run.*overwrite"):
        write_result("out", RunFolder(), NoStep())
    with pytest.raises(ConfigError, match="of another run"):  # a trial would replace it by the result of one batch
        write_result("out", RunFolder(), NoStep(), fast_dev_run=True)
    assert first.read_bytes() == before
    write_result("out", RunFolder(overwrite=True))
    assert first.read_bytes() != before
    with pytest.raises(ConfigError, match="of another run"):
        write_result("out", RunFolder())


def test_a_search_says_what_it_writes(tmp_path: Path) -> None:
    write_bytes(tmp_path / "out" / "alphas.safetensors", b"precious")
    write_bytes(tmp_path / "out" / "notes.txt", b"")
    with pytest.raises(ConfigError, match=r"out has alphas\.safetensors of another run"):
        fit(make(tmp_path / "out"), tmp_path, NoStep())
    assert (tmp_path / "out" / "alphas.safetensors").read_bytes() == b"precious"


def test_a_damaged_list_of_owners_is_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "out" / OWNERS, b"{")
    with pytest.raises(ConfigError, match="is not a complete JSON file"):
        write_result("out", RunFolder())


def test_a_resumed_run_replaces_its_own_artifacts_wherever_the_folder_is(tmp_path: Path) -> None:
    def keeper(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(f"{folder}/kept", "last", enable_version_counter=False)

    options: dict[str, Any] = {"enable_checkpointing": True}
    before = write_result("out", RunFolder(), keeper("out"), **options).read_bytes()
    (tmp_path / "out").rename(tmp_path / "moved")
    options |= {"resume": "moved/kept/last.ckpt", "max_epochs": 2}
    after = write_result("moved", RunFolder(), keeper("moved"), **options)
    assert after.read_bytes() != before
    options |= {"max_epochs": 3}
    write_result("moved", RunFolder(run="stage"), keeper("moved"), **options)  # both identities are its own


def test_a_run_with_a_name_may_start_again(tmp_path: Path) -> None:
    write_result("out", RunFolder(run="a"))
    write_result("out", RunFolder(run="a"))
    with pytest.raises(ConfigError, match="of another run"):
        write_result("out", RunFolder(run="b"))


def test_what_a_killed_run_has_left_is_deleted(tmp_path: Path) -> None:
    left = write_bytes(tmp_path / "out" / f".result.json.{'0' * 16}.part", b"half")
    write_result("out", RunFolder())
    assert not left.exists()


def test_the_configuration_of_a_run_does_not_carry_the_leave_to_overwrite(tmp_path: Path) -> None:
    made = config(tmp_path, STAGES["distill"])
    made["trainer"] |= {"logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path)}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(made))
    main(["fit", "--config", "run.yaml", "--run_folder.overwrite", "true"])
    (written,) = tmp_path.glob("lightning_logs/version_0/cli_config.yaml")
    assert "run_folder" not in yaml.safe_load(written.read_text())
    with pytest.raises(SystemExit, match=r"ConfigError: .* has proxy\.safetensors, .* of another run"):
        main(["fit", "--config", str(written)])


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
    made = config(tmp_path, STAGES["train"])
    made["data"]["class_path"] = "tests.callbacks.test_run_folder.DyingDataModule"
    made["data"]["init_args"]["num_workers"] = 1
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(made))
    with pytest.raises(DataError, match=r"A process that reads images has died: .*num_workers"):
        run(["fit", "--config", str(tmp_path / "run.yaml")])
