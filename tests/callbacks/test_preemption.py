"""SIGTERM at any moment, checkpoints within an epoch, and runs that are resumed from them."""

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nas.__main__ import main, resume_line
from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.callbacks.run_folder import RunFolder
from lightning_nas.cli.exports import export_checkpoint
from lightning_nas.errors import ConfigError, InterruptedTrainingError
from lightning_nas.export.formats import Description
from lightning_nas.export.network import PlainFile, export_files
from lightning_nas.files.checkpoints import CHECKPOINT_KEY, read_checkpoint
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.helpers import quiet_trainer
from tests.pipeline.test_run import arguments
from tests.tiny import tiny


class Terminate(Callback):
    """Sends this process SIGTERM, once, at one moment.

    Args:
        hook: Name of the callback's hook.
        epoch: In which epoch.
        batch: At which batch, for hooks of batches.
    """

    def __init__(self, hook: str, epoch: int = 0, batch: int = 0) -> None:
        self.moment = hook, epoch, batch
        self.armed = True

    def _reach(self, hook: str, trainer: Trainer, batch: int = 0) -> None:
        wanted, epoch, at = self.moment
        # an epoch counts as over from the end of its batches on
        if self.armed and hook == wanted and (trainer.current_epoch, batch) == (epoch, at):
            self.armed = False
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before a batch."""
        self._reach("on_train_batch_start", trainer, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last batch of an epoch."""
        self._reach("on_train_epoch_end", trainer)


class TerminateAtEnd(Callback):
    """Sends SIGTERM when the epochs are over and the task writes its results."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the place of the measurement at the end."""

        def measure(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("a measurement went on after SIGTERM")

        pl_module.model.selection_errors = measure  # type: ignore[assignment]


def config(folder: Path, stage: str) -> dict[str, Any]:
    """Three epochs of four batches, with everything that draws random numbers."""
    made = tiny(stage, folder)
    made["trainer"] |= {"max_epochs": 3, "limit_train_batches": 4, "logger": False}
    made["trainer"]["callbacks"] = [
        {"class_path": "ModelCheckpoint", "init_args": {"dirpath": str(folder / "kept"), "filename": "last"}}
    ]
    arguments = made["model"]["init_args"]
    if "architecture" in arguments:
        arguments |= {"drop_path": 0.5}
    else:
        arguments |= {"output_dir": str(folder)}
    if "scheme" in arguments:
        made["data"]["init_args"]["steps_per_epoch"] = 4
    if "space" in arguments:
        arguments["selection_images"] = 8
        arguments["space"]["init_args"] |= {"channels": 2, "operations": ["none", "skip_connect", "sep_conv_3x3"]}
        made["data"]["init_args"]["batch_size"] = 6
    return made


def write(folder: Path, stage: str, *callbacks: dict[str, Any]) -> list[str]:
    folder.mkdir(exist_ok=True)
    made = config(folder, stage)
    made["trainer"]["callbacks"] += callbacks
    (folder / "run.yaml").write_text(yaml.safe_dump(made))
    return ["fit", "--config", str(folder / "run.yaml")]


def state(folder: Path) -> dict[str, Any]:
    found = torch.load(folder / "kept" / "last.ckpt", weights_only=True)
    return {key: found[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "means", "epoch")}


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


STAGES = {
    "distill": "distill/distribution_matching.yaml",
    "search": "search/two_scheme.yaml",
    "train": "train/digits.yaml",
}
MOMENTS = [
    ("on_train_batch_start", 0, 0),  # before there is any checkpoint
    ("on_train_batch_start", 1, 1),  # within an epoch
    ("on_train_batch_start", 1, 3),  # in its last batch
    ("on_train_epoch_end", 1, 0),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The ends of runs that nothing interrupts."""
    ends = {}
    for name, stage in STAGES.items():
        folder = tmp_path_factory.mktemp(name)
        main(write(folder, stage))
        ends[name] = state(folder)
    return ends


@pytest.mark.slow
@pytest.mark.parametrize(("hook", "epoch", "batch"), MOMENTS)
@pytest.mark.parametrize("name", STAGES)
def test_a_terminated_run_goes_on_by_the_line_that_it_prints(
    name: str,
    hook: str,
    epoch: int,
    batch: int,
    whole: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    moment = {"hook": hook, "epoch": epoch, "batch": batch}
    path = "tests.callbacks.test_preemption.Terminate"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main(write(tmp_path, STAGES[name], {"class_path": path, "init_args": moment}))
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    said = capsys.readouterr().err
    (line,) = [text for text in said.splitlines() if text.startswith("Go on with: lightning-nas ")]
    args = shlex.split(line.removeprefix("Go on with: lightning-nas "))
    assert args[-2:] == ["--ckpt_path", str(tmp_path / "kept" / "last.ckpt")]
    write(tmp_path, STAGES[name])  # nothing interrupts it now
    main(args)
    assert_same(state(tmp_path), whole[name])


@pytest.mark.slow
def test_the_measurement_after_the_last_epoch_is_stopped_at_once(
    whole: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = write(tmp_path, STAGES["search"], {"class_path": "tests.callbacks.test_preemption.TerminateAtEnd"})
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 143
    assert not (tmp_path / "architecture.json").exists()
    line = capsys.readouterr().err.split("Go on with: lightning-nas ")[1]
    write(tmp_path, STAGES["search"])
    main(shlex.split(line))
    assert (tmp_path / "architecture.json").is_file()
    assert_same(state(tmp_path), whole["search"])


@pytest.mark.slow
def test_a_terminated_pipeline_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moment = {
        "class_path": "tests.callbacks.test_preemption.Terminate",
        "init_args": {"hook": "on_train_batch_start"},
    }
    args = arguments(
        tmp_path / "run", stages__train__random_architectures=0, stages__search__trainer__callbacks=[moment]
    )
    with pytest.raises(SystemExit) as ended:
        main(["pipeline", *args])
    assert ended.value.code == 143
    line = capsys.readouterr().err.split("Go on with: lightning-nas ")[1]
    assert shlex.split(line) == ["pipeline", *args]
    assert (tmp_path / "run" / "distill" / "done.json").is_file()
    assert not (tmp_path / "run" / "search" / "done.json").exists()
    assert (tmp_path / "run" / "search" / "checkpoints" / "last.ckpt").is_file()


# in Python, without the command line


class Counts(LightningModule):
    """One weight; writes down which batches it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append((self.current_epoch, batch_idx))
        return (self.weight - 1) ** 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.zeros(6, 1), batch_size=1)  # type: ignore[arg-type]


def counted(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    keep = ModelCheckpoint(folder, "{epoch}")
    callbacks = (keep, *callbacks)
    return quiet_trainer(max_epochs=2, enable_checkpointing=True, callbacks=list(callbacks), **options)


def test_a_checkpoint_within_an_epoch_goes_when_the_epoch_has_one(tmp_path: Path) -> None:
    class Look(Callback):
        seen: list[tuple[int, list[str]]] = []

        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            self.seen.append((batch_idx, sorted(p.name for p in tmp_path.glob("*.ckpt"))))

    look = Look()
    counted(tmp_path, PreemptionCheckpoint(every_n_batches=2), look).fit(Counts())
    own, first = "interrupted.ckpt", "epoch=0.ckpt"
    assert look.seen == [
        *((0, []), (1, []), (2, [own]), (3, [own]), (4, [own]), (5, [own])),
        *((0, [first]), (1, [first]), (2, [first, own]), (3, [first, own]), (4, [first, own]), (5, [first, own])),
    ]


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")  # Lightning's word on plain loaders
def test_between_epochs_the_newest_state_is_saved_where_only_the_best_is_kept(tmp_path: Path) -> None:
    class Worse(Counts):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("worse", float(self.current_epoch))
            return super().training_step(batch, batch_idx)

    def fit(*callbacks: Callback, ckpt_path: str | None = None) -> Counts:
        best = ModelCheckpoint(tmp_path, "best", monitor="worse", enable_version_counter=False)
        task = Worse()
        trainer = quiet_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[best, *callbacks])
        trainer.fit(task, ckpt_path=ckpt_path)
        return task

    with pytest.raises(InterruptedTrainingError, match="in epoch 2, after batch 0") as stopped:
        fit(Terminate("on_train_epoch_end", 1), PreemptionCheckpoint())
    assert stopped.value.checkpoint == tmp_path / "interrupted.ckpt"
    resumed = fit(PreemptionCheckpoint(), ckpt_path=str(stopped.value.checkpoint))
    assert resumed.seen == [(2, batch) for batch in range(1, 6)]
    assert torch.equal(resumed.weight, fit().weight)


def test_without_checkpoints_a_terminated_run_says_so(tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=2, callbacks=[Terminate("on_train_batch_start", 1, 2), PreemptionCheckpoint()])
    with pytest.raises(InterruptedTrainingError, match="epoch 1, after batch 2. It has no checkpoint") as stopped:
        trainer.fit(Counts())
    assert stopped.value.checkpoint is None


def test_a_checkpoint_waits_for_gathered_gradients(tmp_path: Path) -> None:
    callbacks = (Terminate("on_train_batch_start", 0, 1), PreemptionCheckpoint())
    task = Counts()
    with pytest.raises(InterruptedTrainingError):
        counted(tmp_path, *callbacks, accumulate_grad_batches=3).fit(task)
    assert task.seen[-1] == (0, 2)


def test_zero_batches_between_checkpoints_are_refused() -> None:
    with pytest.raises(ConfigError, match="every_n_batches is 0"):
        PreemptionCheckpoint(every_n_batches=0)


@pytest.mark.parametrize("given", [["--ckpt_path", "old.ckpt"], ["--ckpt_path=old.ckpt"], []])
def test_the_line_names_the_new_checkpoint_alone(given: list[str]) -> None:
    line = resume_line(["fit", "--config", "a b.yaml", *given], Path("new.ckpt"))
    assert line == "Go on with: lightning-nas fit --config 'a b.yaml' --ckpt_path new.ckpt"


def test_a_trial_run_leaves_no_files(tmp_path: Path) -> None:
    trainer = quiet_trainer(
        fast_dev_run=True, callbacks=[RunFolder(), PreemptionCheckpoint()], default_root_dir=tmp_path
    )
    trainer.fit(Counts())
    assert not list(tmp_path.iterdir())


# -- a signal at any moment is not taken for another error ------------------------------------------------------------


@pytest.fixture
def send() -> Iterator[Callable[..., Any]]:
    """A function that sends SIGTERM, to which this process answers as a pipeline does."""

    def answer(number: int, frame: Any) -> None:
        raise InterruptedTrainingError("stopped")

    def send(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the process went on after SIGTERM")

    before = signal.signal(signal.SIGTERM, answer)
    yield send
    signal.signal(signal.SIGTERM, before)


def test_a_signal_while_a_checkpoint_is_read(
    send: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({CHECKPOINT_KEY: {}}, tmp_path / "some.ckpt")
    monkeypatch.setattr(torch, "load", send)
    with pytest.raises(InterruptedTrainingError):
        read_checkpoint(tmp_path / "some.ckpt")


def test_a_signal_while_a_file_is_exported(
    send: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = NASBench201Space(channels=2, cells_per_stage=1)
    network = space.network(space.architecture([3] * 6), num_classes=2, image_shape=(1, 8, 8), channels=2, cells=1)
    description = Description((1, 8, 8), ("a", "b"), (0.0,), (1.0,), "")
    for place in ("write", "run"):
        monkeypatch.setattr(PlainFile, place, send)
        with pytest.raises(InterruptedTrainingError):
            export_files(network, tmp_path, description, [PlainFile()])
    assert not list(tmp_path.iterdir())


def test_a_signal_while_a_trained_network_is_built(
    send: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(write(tmp_path, STAGES["train"]))
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", send)
    with pytest.raises(InterruptedTrainingError):
        export_checkpoint(tmp_path / "kept" / "last.ckpt", tmp_path / "out", formats=["py"])
    assert not (tmp_path / "out").exists()
