"""Every task follows an option of the trainer or refuses it before the first step, in one paragraph."""

import copy
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from packaging.version import Version

from lightning_nas import tasks
from lightning_nas.cli.lightning import NASCLI
from lightning_nas.errors import ConfigError, NASError
from lightning_nas.tasks.base import Task
from tests.helpers import QUIET
from tests.tiny import tiny

CONFIGS = {
    "AutoEncoderTask": "predict/nao.yaml",
    "BilevelTask": "search/darts.yaml",
    "BilevelTask, sampled paths": "search/gdas.yaml",
    "DistillTask": "distill/distribution_matching.yaml",
    "DistillTask, nothing to train": "distill/herding.yaml",
    "EvolveTask": "evolve/random_search.yaml",
    "EvolveTask, supernet": "evolve/supernet_shifting.yaml",
    "ExpertsTask": "distill/experts.yaml",
    "FidelityTask": "distill/fidelity.yaml",
    "SelectTask": "search/darts_pt_nasbench201.yaml",
    "ShapleyTask": "search/shapley_nas.yaml",
    "SplitTask": "search/gm_nas_split.yaml",
    "SupernetTask": "supernet/uniform.yaml",
    "TrainTask": "train/digits.yaml",
}
"""A shipped configuration of every task, and of every form in which it trains otherwise."""

FLAGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "overfit_batches": {"overfit_batches": 1},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "16-mixed": {"precision": "16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "16-true": {"precision": "16-true"},
    "64-true": {"precision": "64-true"},
    "ddp, one device": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "gradient_clip_val": {"gradient_clip_val": 1.0},
    "accumulate": {"accumulate_grad_batches": 2},
    "accumulate 0": {"accumulate_grad_batches": 0},
    "clip below 0": {"gradient_clip_val": -1.0},
    "no validation epochs": {"check_val_every_n_epoch": 0},
    "max_steps 1": {"max_steps": 1},
    "max_steps 0": {"max_steps": 0},
    "min_steps": {"min_steps": 3},
    "max_epochs 0": {"max_epochs": 0},
    "max_epochs 2": {"max_epochs": 2},
    "no max_epochs": {"max_epochs": -1, "max_steps": 2},
    "max_time 0": {"max_time": "00:00:00:00"},
    "no batches": {"limit_train_batches": 0},
    "few batches": {"limit_train_batches": 0.01},
    "fast_dev_run": {"fast_dev_run": True},
    "deterministic": {"deterministic": True},
    "barebones": {"barebones": True, "enable_checkpointing": False},
    "sync_batchnorm": {"sync_batchnorm": True},
    "profiler": {"profiler": "nonsense"},
}

GROUPS_CAN_HANG = Version(torch.__version__) < Version("2.8")
"""Before, PyTorch held the interpreter's lock while it ended a process group, whose threads may wait for that lock."""

PLATEAU = "ReduceLROnPlateau"
SCHEDULERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "plateau": (f"lightning.pytorch.cli.{PLATEAU}", {"monitor": "train/loss", "patience": 0}, "ok"),
    "plateau without a metric": (f"torch.optim.lr_scheduler.{PLATEAU}", {}, "ConfigError"),
    "one cycle, too long": ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1, "total_steps": 999}, "ConfigError"),
    "one cycle": ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1, "total_steps": 4}, "ok"),
    "cyclic": ("torch.optim.lr_scheduler.CyclicLR", {"base_lr": 0.1, "max_lr": 1.0, "cycle_momentum": False}, "ok"),
    "steps of 0 epochs": ("torch.optim.lr_scheduler.StepLR", {"step_size": 0}, "ConfigError"),
    "negative rates": ("torch.optim.lr_scheduler.ExponentialLR", {"gamma": -1.0}, "ConfigError"),
}
"""Class, arguments, and what comes of it in a training of two epochs of two batches."""

RATES = {"lr -1": -1.0, "lr nan": float("nan"), "lr inf": float("inf")}


class Steps(Callback):
    """Counts batches."""

    count = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """One more."""
        self.count += 1


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    """Without Lightning's announcements, of which there would be thousands."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    yield
    for each, level in zip(loggers, levels, strict=True):
        each.setLevel(level)


@pytest.fixture
def alone() -> Iterator[None]:
    """Leaves no process group and no variables of one."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    torch.use_deterministic_algorithms(False)


def outcome(cli: NASCLI, options: dict[str, Any]) -> str:
    """Run a task: "ok", the typed error that refused it before its first step, or what else happened."""
    steps = Steps()
    made = cli.parser.instantiate(cli.config)
    refused: tuple[type[Exception], ...] = (MisconfigurationException, ValueError, ImportError)
    try:  # the command line says in one paragraph what the trainer's constructor refuses
        trainer = Trainer(**{**QUIET, "enable_checkpointing": True, "callbacks": [steps], **options})
        refused = (MisconfigurationException,)
        trainer.fit(made.model, datamodule=made.data)
    except NASError as error:
        late = f" AFTER {steps.count} STEPS" if steps.count else ""
        lines = " IN SEVERAL LINES" if "\n" in str(error) else ""
        return f"{type(error).__name__}{late}{lines}"
    except refused as error:
        return "Lightning refuses it" if steps.count == 0 else f"{type(error).__name__} AFTER {steps.count} STEPS"
    except Exception as error:  # what a user would see as a traceback
        return f"TRACEBACK {type(error).__name__}: {error!s:.100}"
    return "ok" if steps.count else "NOTHING COMPUTED"


def changed(cli: NASCLI, place: str, value: Any) -> NASCLI:
    """The same configuration with another value, which only the tests' table has to name."""
    config = cli.config.clone()
    config[f"model.init_args.{place}"] = value
    other = copy.copy(cli)
    other.config = config
    return other


def arguments(cli: NASCLI, ending: str) -> list[str]:
    """Arguments of the task, and of its components, by the ending of their name."""
    names = cli.config.model.init_args.keys(nested=False)
    found = [name for name in names if name.endswith(ending)]
    shifting = "shifting" in names and cli.config.model.init_args.shifting is not None and ending == "optimizer"
    return [*found, *(["shifting.init_args.optimizer"] if shifting else [])]


def parsed(name: str, folder: Path) -> tuple[NASCLI, dict[str, Any]]:
    """The parsed configuration of a task, and options of its trainer."""
    config = tiny(CONFIGS[name], folder)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    kept = ("max_epochs", "limit_train_batches", "default_root_dir")
    return NASCLI(args=["--config", str(path)], run=False), {key: config["trainer"][key] for key in kept}


def report(task: str, outcomes: dict[str, str]) -> None:
    """Print a part of the matrix, and fail where an option is neither followed nor refused."""
    print("\n" + "\n".join(f"{task:30} {name:26} {found}" for name, found in outcomes.items()))
    wrong = {name: found for name, found in outcomes.items() if found.upper() == found or " " in found.split(",")[0]}
    wrong = {name: found for name, found in wrong.items() if found != "Lightning refuses it"}
    assert not wrong, f"{task}: {wrong}"


def test_every_task_is_in_the_table() -> None:
    public = [getattr(tasks, name) for name in tasks.__all__]
    kinds = {kind.__name__ for kind in public if isinstance(kind, type) and issubclass(kind, LightningModule)}
    assert {name.partition(",")[0] for name in CONFIGS} == kinds
    assert all(issubclass(getattr(tasks, name), Task) for name in kinds)


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", CONFIGS)
def test_every_option_of_the_trainer_is_followed_or_refused(task: str, tmp_path: Path) -> None:
    cli, base = parsed(task, tmp_path)
    outcomes = {}
    for name, options in FLAGS.items():
        if options.get("strategy") == "ddp" and GROUPS_CAN_HANG:
            continue
        outcomes[name] = outcome(cli, {**base, **options})
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        torch.use_deterministic_algorithms(False)
    assert outcomes["nothing"] == "ok"
    report(task, outcomes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", CONFIGS)
def test_every_schedule_and_rate_is_followed_or_refused(task: str, tmp_path: Path) -> None:
    cli, base = parsed(task, tmp_path)
    outcomes = {}
    for place in arguments(cli, "optimizer"):
        if cli.config[f"model.init_args.{place}"] is None:  # a control has none
            continue
        for name, rate in RATES.items():
            outcomes[f"{place}, {name}"] = outcome(changed(cli, f"{place}.init_args.lr", rate), base)
            assert outcomes[f"{place}, {name}"] == "ConfigError"
    if task not in ("SelectTask", "ExpertsTask", "DistillTask, nothing to train"):  # of another length, or without
        base["max_epochs"] = 2
        for place in arguments(cli, "scheduler"):
            for name, (path, given, expected) in SCHEDULERS.items():
                by_step = task == "AutoEncoderTask"
                if by_step and name in ("steps of 0 epochs", "negative rates"):
                    continue  # the rehearsal goes through epochs
                given = {**given, "monitor": "train/rank"} if by_step and "monitor" in given else given
                made = changed(cli, place, Namespace(class_path=path, init_args=Namespace(**given)))
                outcomes[f"{place}, {name}"] = outcome(made, base)
                assert outcomes[f"{place}, {name}"] == expected, name
    report(task, outcomes)


# -- what "followed" means --------------------------------------------------------------------------------------------


class Seen(Callback):
    """Remembers the learning rates, and a sum of the images, of every batch."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.images: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember both."""
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])
        images = batch["train"][0] if isinstance(batch, dict) else batch[0]
        self.images.append(float(images.double().sum()))


def fitted(cli: NASCLI, base: dict[str, Any], **options: Any) -> tuple[Trainer, Seen]:
    torch.manual_seed(0)
    made, seen = cli.parser.instantiate(cli.config), Seen()
    trainer = Trainer(**{**QUIET, **base, "callbacks": [seen], **options})
    trainer.fit(made.model, datamodule=made.data, ckpt_path=None)
    return trainer, seen


@pytest.mark.parametrize("task", ["BilevelTask", "TrainTask"])
@pytest.mark.filterwarnings("ignore:.*overfit.*")
def test_overfitting_repeats_the_same_batches(task: str, tmp_path: Path) -> None:
    cli, base = parsed(task, tmp_path)
    cli = changed(cli, "seed", 0) if task == "BilevelTask" else cli
    cli.config[
        "data.init_args.data.init_args.augmentations" if task == "BilevelTask" else "data.init_args.augmentations"
    ] = []
    _, seen = fitted(cli, base, overfit_batches=2, max_epochs=3)
    assert len(set(seen.images[:2])) == 2
    assert seen.images == seen.images[:2] * 3
    _, seen = fitted(cli, base, max_epochs=2)
    assert seen.images[2:] != seen.images[:2]


def test_a_search_counts_its_batches_as_steps(tmp_path: Path) -> None:
    cli, base = parsed("BilevelTask", tmp_path)
    trainer, seen = fitted(cli, base, max_epochs=5, max_steps=3)
    assert len(seen.images) == 3
    assert trainer.max_steps == 3
    assert len(list(tmp_path.rglob("version_0/architecture.json"))) == 1


def test_a_search_refuses_checkpoints_by_steps_of_both_optimizers(tmp_path: Path) -> None:
    cli, base = parsed("BilevelTask", tmp_path)
    made = cli.parser.instantiate(cli.config)
    for steps in (2, 3):
        keeper = ModelCheckpoint(every_n_train_steps=steps)
        trainer = Trainer(**{**QUIET, **base, "callbacks": [keeper], "enable_checkpointing": True})
        said = (
            f"every_n_train_steps {steps}; Lightning counts the steps of all 2 optimizers, not batches.*every_n_batches"
        )
        with pytest.raises(ConfigError, match=said):
            trainer.fit(made.model, datamodule=made.data)
        assert trainer.global_step == 0


@pytest.mark.parametrize("place", ["weight_scheduler", "alpha_scheduler"])
def test_a_search_follows_schedules_by_batch_and_by_metric(place: str, tmp_path: Path) -> None:
    cli, base = parsed("BilevelTask", tmp_path)
    index = ("weight_scheduler", "alpha_scheduler").index(place)
    path, given, _ = SCHEDULERS["cyclic"]
    cyclic = Namespace(class_path=path, init_args=Namespace(**given, step_size_up=2))
    _, seen = fitted(changed(cli, place, cyclic), base, max_epochs=2)
    assert [round(rates[index], 6) for rates in seen.rates] == [0.1, 0.55, 1.0, 0.55]
    path, given, _ = SCHEDULERS["plateau"]
    plateau = Namespace(class_path=path, init_args=Namespace(**{**given, "threshold": 1e9}))  # nothing is better
    _, seen = fitted(changed(cli, place, plateau), base, max_epochs=3)
    first = seen.rates[0][index]
    assert [rates[index] / first for rates in seen.rates] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.skipif(GROUPS_CAN_HANG, reason="the process group of this PyTorch can hang at its end")
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("task", ["BilevelTask", "BilevelTask, sampled paths", "SupernetTask"])
def test_one_device_computes_the_same_with_ddp(task: str, tmp_path: Path) -> None:
    cli, base = parsed(task, tmp_path)
    plain, _ = fitted(cli, base)
    ddp, _ = fitted(cli, base, strategy="ddp")
    expected = plain.lightning_module.state_dict()
    for name, value in ddp.lightning_module.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("option", ["accumulate_grad_batches", "check_val_every_n_epoch", "gradient_clip_val"])
def test_numbers_that_lightning_does_not_check_are_refused(option: str, tmp_path: Path) -> None:
    cli, base = parsed("TrainTask", tmp_path)
    with pytest.raises(ConfigError, match=rf"trainer\.{option} is -1"):
        fitted(cli, base, **{option: -1})


@pytest.mark.parametrize(
    ("task", "advice"),
    [
        ("BilevelTask", r"--model\.weight_clip_norm 2\.0"),
        ("EvolveTask, supernet", r"--model\.shifting\.clip_norm 2\.0"),
        ("SplitTask", "trains no weights"),
    ],
)
def test_clipping_is_advised_where_a_task_does_it_itself(task: str, advice: str, tmp_path: Path) -> None:
    cli, base = parsed(task, tmp_path)
    with pytest.raises(ConfigError, match=f"gradient_clip_val is 2.0.*{advice}"):
        fitted(cli, base, gradient_clip_val=2.0)
