"""What a later stage lacks is said before the first stage starts."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, seed_everything
from lightning.pytorch.callbacks import EarlyStopping

from lightning_nas.__main__ import main
from lightning_nas.cli import lightning
from lightning_nas.distill.base import Scheme
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.errors import ConfigError
from tests.conftest import ROOT
from tests.data.fake import folders, pixels
from tests.helpers import started
from tests.pipeline.test_run import FEW, arguments
from tests.tiny import arrays


class StartedError(Exception):
    """The first stage has started."""


@pytest.fixture(autouse=True)
def _no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(args: list[str]) -> None:
        raise StartedError

    monkeypatch.setattr(lightning, "run", start)


def refused(run_dir: Path, said: str, **changes: Any) -> None:
    with pytest.raises(SystemExit, match=said) as stopped:
        main(["pipeline", *arguments(run_dir, **changes)])
    assert "\n" not in str(stopped.value)
    assert not list(run_dir.glob("[!.]*"))


def starts(run_dir: Path, **changes: Any) -> None:
    with pytest.raises(StartedError):
        main(["pipeline", *arguments(run_dir, **changes)])


@pytest.fixture
def root(quick: Path) -> dict[str, Any]:
    """Options for a pipeline on a folder with ``train``, ``val`` and ``test``."""
    parts = {
        f"{part}/{name}": pixels(n, seed=n) for part, n in (("train", 60), ("val", 40), ("test", 9)) for name in "ab"
    }
    folder = folders(quick / "images", parts)
    return {"data__class_path": "FolderDataModule", "data__root": folder, "data__image_size": 8, **FEW}


def test_a_missing_test_folder_is_found_before_the_first_stage(root: dict[str, Any], quick: Path) -> None:
    starts(quick / "run", **root)
    shutil.rmtree(Path(root["data__root"]) / "test")
    refused(quick / "other", r"DataError: Stage train: .*images/test is not a folder", **root)


def test_a_batch_larger_than_a_later_stages_images(root: dict[str, Any], quick: Path) -> None:
    large = {"stages__train__data__init_args__batch_size": 121}
    refused(quick / "run", "DataError: Stage train: The training set has 120 images .*at most 120", **root | large)
    # the proxy is not there yet: its scheme says what it will hold
    large = {"stages__search__data__init_args__batch_size": 9}
    refused(quick / "run", "DataError: Stage search: The train half has 8 images .*at most 8", **root | large)
    held_out = {**large, "stages__search__data__init_args__held_out": "${data}"}
    starts(quick / "run", **root | held_out)  # 16 images of the proxy, 80 of val


def test_a_monitor_of_a_later_stage(root: dict[str, Any], quick: Path) -> None:
    keeper = "[{class_path: ModelCheckpoint, init_args: {monitor: val/accuracy}}]"
    monitored = {"stages__train__trainer__callbacks": keeper}
    starts(quick / "run", **root | monitored)
    said = (
        r"ConfigError: Stage train: ModelCheckpoint monitors 'val/accuracy', but the run has no validation.*train/loss"
    )
    refused(quick / "other", said, **root | monitored | {"data__validation": "null"})
    wrong = {"stages__search__trainer__callbacks": keeper.replace("val/accuracy", "val_loss")}
    refused(quick / "other", "Stage search: .*'val_loss', which nothing", **root | wrong)


def test_metrics_of_the_users_own_are_known_before_they_are_made(root: dict[str, Any], quick: Path) -> None:
    keeper = "[{class_path: ModelCheckpoint, init_args: {monitor: val/f1}}]"
    monitored = {**root, "stages__train__trainer__callbacks": keeper}
    refused(quick / "run", "Stage train: .*'val/f1', which nothing", **monitored)
    metric = {"stages__train__model__init_args__metrics": "{f1: torchmetrics.F1Score}"}
    starts(quick / "run", **monitored | metric)
    wrong = {"stages__train__model__init_args__metrics": "{f1: torchmetrics.Nothing}"}
    refused(quick / "other", "ConfigError: Stage train: metrics.f1 is 'torchmetrics.Nothing'", **monitored | wrong)


def test_weights_and_metrics_that_do_not_fit_a_later_stages_classes(root: dict[str, Any], quick: Path) -> None:
    weights = {"stages__train__model__init_args__class_weights": "[1.0, 2.0, 3.0]"}
    refused(quick / "run", "ConfigError: Stage train: class_weights has 3 values for 2 classes", **root | weights)
    weights = {"stages__search__model__init_args__class_weights": "[1.0]"}  # on a proxy that is not there yet
    refused(quick / "run", "ConfigError: Stage search: class_weights has 1 values for 2 classes", **root | weights)
    starts(quick / "run", **root, stages__train__model__init_args__class_weights="balanced")
    metric = {"stages__train__model__init_args__metrics": "{matrix: torchmetrics.ConfusionMatrix}"}
    refused(quick / "other", r"Stage train: metrics.matrix, .* a tensor of shape \(2, 2\)", **root | metric)


def test_a_trainer_that_a_later_stage_cannot_follow(root: dict[str, Any], quick: Path) -> None:
    said = "ConfigError: Stage fidelity: There are 2 processes; FidelityTask runs in one"
    refused(quick / "run", said, **root, stages__fidelity__trainer__devices=2)
    said = "ConfigError: Stage fidelity: The trainer has precision bf16-true; FidelityTask computes with one of 32-true"
    refused(quick / "run", said, **root, stages__fidelity__trainer__precision="bf16-true")


def test_a_folder_that_cannot_be_written_to(root: dict[str, Any], quick: Path) -> None:
    (quick / "file").write_text("")
    refused(quick / "run", "cannot write to .*file", **root, stages__search__model__init_args__output_dir="file/below")


def test_a_folder_of_something_else_is_left_alone(quick: Path) -> None:
    (quick / "run").mkdir()
    (quick / "run" / "architecture.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"no run folder of this pipeline: it has architecture\.json"):
        main(["pipeline", *arguments(quick / "run")])


def test_data_without_these_checks_are_left_to_their_stage(quick: Path) -> None:
    path = arrays(quick / "images.npz")
    with np.load(path) as content:
        assert len(content["x_train"]) == 48
    starts(
        quick / "run",
        data__class_path="ArrayDataModule",
        data__path=path,
        **FEW,
    )


def test_a_stage_that_would_replace_the_results_of_another(quick: Path) -> None:
    path = arrays(quick / "images.npz")
    args = [
        "--config",
        str(ROOT / "configs" / "pipeline" / "nasbench201_two_scheme.yaml"),
        "--run_dir",
        str(quick / "run"),
    ]
    args += ["--data.class_path", "ArrayDataModule", "--data.path", str(path)]
    refinement = "stages.refine.model.init_args.evaluator.init_args.evaluator.init_args.evaluator.init_args"
    for key in ("stages.search.data.init_args", "stages.train.data.init_args", refinement):
        args += [f"--{key}.batch_size", "4"]
    with pytest.raises(StartedError):
        main(["pipeline", *args])
    shutil.rmtree(quick / "run")
    same = ["--stages.search.model.init_args.output_dir", "${run_dir}"]
    with pytest.raises(
        SystemExit, match=r"Stage refine: It would replace .*/architecture\.json, which stage search writes"
    ):
        main(["pipeline", *args, *same])


class Untested(LightningDataModule):
    """Data of a user's own, which cannot be listed."""

    num_classes = 10
    image_shape = (1, 8, 8)

    def train_dataloader(self) -> Any:
        """Not reached."""
        raise NotImplementedError


def test_data_of_ones_own_need_what_their_stage_does(quick: Path) -> None:
    own = {"stages__train__data": "{class_path: tests.pipeline.test_preflight.Untested}"}
    refused(quick / "run", "DataError: Stage train: Untested has no test_dataloader", **own)
    keeper = "[{class_path: ModelCheckpoint, init_args: {monitor: val/accuracy}}]"
    Untested.test_dataloader = Untested.train_dataloader  # type: ignore[method-assign]
    try:
        starts(quick / "run", **own)
        monitored = {**own, "stages__train__trainer__callbacks": keeper}
        refused(quick / "other", "Stage train: ModelCheckpoint monitors 'val/accuracy', but", **monitored)
    finally:
        del Untested.test_dataloader


SCHEMES: dict[str, Scheme] = {
    "plain": PlainImages(3),
    "bases": HallucinatedBases(3, hallucinators=2),
    "relations": RelationMappings(4, mappings=4, banks=2),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_says_what_it_will_hold(name: str) -> None:
    scheme = SCHEMES[name]
    expected = scheme.layout(2)
    labels = torch.arange(12) % 2
    made = started(scheme, torch.randn(12, 3, 8, 8), labels).proxy()
    assert expected is not None
    assert torch.equal(expected[0], made.labels)
    assert torch.equal(expected[1], made.groups)


def test_more_proxy_images_than_a_class_has_images(root: dict[str, Any], quick: Path, capsys: Any) -> None:
    many = {"stages__distill__model__init_args__scheme__init_args__images_per_class": 61}
    said = r"ConfigError: Stage distill: images_per_class is 61; it must be from 1 to 60, the number of training images"
    refused(quick / "run", said, **root | many)
    assert "Seed set" not in capsys.readouterr().err


class Messages(logging.Handler):
    """Keeps what is logged; pytest's own does not get the messages of every version of Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.texts.append(record.getMessage())


def test_the_seed_is_told_once(root: dict[str, Any], quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Messages()
    monkeypatch.setattr(logging.getLogger("lightning.fabric.utilities.seed"), "handlers", [said])

    def start(args: list[str]) -> None:
        for seed in (0, 0, 1):
            seed_everything(seed)
        raise StartedError

    monkeypatch.setattr(lightning, "run", start)
    starts(quick / "run", **root)
    assert said.texts == ["Seed set to 0", "Seed set to 1"]
    seed_everything(0)
    assert said.texts[-1] == "Seed set to 0"


def test_data_of_evaluators(root: dict[str, Any], quick: Path) -> None:
    place = "stages__fidelity__model__init_args__{}__init_args__{}"
    said = "DataError: Stage fidelity: The train half has 16 images, fewer than a batch of 17"
    refused(quick / "run", said, **root | {place.format("proxy", "batch_size"): 17})
    missing = "{class_path: FolderDataModule, init_args: {root: nowhere, validation_fraction: 0.1, image_size: 8}}"
    changes = {place.format("reference", "data__init_args__data"): missing}
    refused(quick / "other", "Stage fidelity: .*nowhere", **root | changes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accelerator": "tpu"}, "torch_xla"),
        ({"accelerator": "cpu", "strategy": "nothing"}, "strategy"),
        ({"devices": 0}, "devices"),
        ({"limit_train_batches": -1}, "limit_train_batches"),
        ({"callbacks": "[{class_path: ModelCheckpoint, init_args: {every_n_epochs: -1}}]"}, "every_n_epochs"),
    ],
)
def test_a_trainer_that_this_machine_cannot_have(
    options: dict[str, Any], said: str, root: dict[str, Any], quick: Path
) -> None:
    changes = {f"stages__train__trainer__{key}": value for key, value in options.items()}
    refused(quick / "run", f"ConfigError: Stage train: .*({said})", **root | changes)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_refuses_more_images_than_a_class_has(name: str) -> None:
    labels = torch.arange(7) % 2  # three images of the second class
    SCHEMES["plain"].check(labels, 2)
    for scheme in (PlainImages(4), RelationMappings(4, mappings=4, banks=2), HallucinatedBases(4)):
        with pytest.raises(ConfigError, match="it must be from 1 to 3, the number of training images of class 1"):
            scheme.check(labels, 2)


class Quiet(Callback):
    """A callback of the user's own."""

    class Inner(Callback):
        """One that is named by the class around it."""


QUIET = Quiet()
STOPPER = EarlyStopping("val/nothing")


def make_callback() -> Callback:
    """A function that the parser takes for a callback, as it says what it returns."""
    return Quiet()


def test_every_form_of_a_callback(root: dict[str, Any], quick: Path) -> None:
    here = "tests.pipeline.test_preflight"
    listed = [f"{here}.{name}" for name in ("Quiet", "Quiet.Inner", "QUIET", "make_callback")]
    for i, given in enumerate((f"[{', '.join(listed)}]", listed[0], f"{{class_path: {listed[0]}}}")):
        starts(quick / f"run{i}", **root, stages__train__trainer__callbacks=given)
    monitored = {"stages__train__trainer__callbacks": f"[{here}.STOPPER]"}
    refused(quick / "run", "Stage train: EarlyStopping monitors 'val/nothing', which nothing", **root, **monitored)


def test_initial_weights_that_are_not_there(root: dict[str, Any], quick: Path) -> None:
    name = "stages__train__model__init_args__initial_weights"
    refused(
        quick / "run", r"CheckpointError: Stage train: nowhere\.ckpt does not exist", **root, **{name: "nowhere.ckpt"}
    )
    (quick / "text.ckpt").write_text("no checkpoint")
    refused(
        quick / "run", r"CheckpointError: Stage train: .*text\.ckpt is not a", **root, **{name: quick / "text.ckpt"}
    )
    starts(quick / "run", **root, **{name: "${run_dir}/pretrain/checkpoints/last.ckpt"})  # of a stage before
