"""Runs of all stages on Weights & Biases, offline, read back from the files that ``wandb sync`` uploads."""

import base64
import csv
import hashlib
import importlib.util
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
import yaml
from PIL import Image

from lightning_nas.callbacks.run_pictures import DPI
from lightning_nas.callbacks.wandb_log import WandbLog, WandbRunLogger
from lightning_nas.cli.lightning import NASCLI, run
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import read_tensors
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.report.draw import draw_cell, draw_heat_map, edge_names
from lightning_nas.report.figures import png
from lightning_nas.report.front import Front
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tables.synthetic import write_nasbench201
from tests.callbacks.wandb_file import Stored, stored_runs
from tests.conftest import ROOT, _environment
from tests.helpers import quiet_trainer
from tests.tiny import tiny

OVERLAY = ROOT / "configs" / "logger" / "wandb.yaml"
FEWER = "--model.space.init_args.operations=[none,max_pool_3x3,skip_connect,sep_conv_3x3,dil_conv_3x3]"
"""Operations that are enough to search among."""


def csv_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# -- runs -----------------------------------------------------------------------------------------------------------


def command(config: str, *args: str, subcommand: str = "fit") -> NASCLI:
    """Run a shipped configuration, made tiny, under the shipped overlay."""
    content = tiny(config, Path.cwd())
    del content["trainer"]["default_root_dir"]
    Path("tiny.yaml").write_text(yaml.safe_dump(content))
    return run([subcommand, "--config", "tiny.yaml", "--config", str(OVERLAY), *args])


def end() -> None:
    """End the run, and wandb's process with the variable that names it."""
    wandb.finish()
    wandb.teardown()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where wandb keeps copies of artifacts; its processes end with the tests."""
    folder = tmp_path_factory.mktemp("wandb_home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(folder))
        patch.setenv("WANDB_SILENT", "true")
        yield
        end()


@dataclass
class Stages:
    """The runs of all stages, one after another in one process."""

    folder: Path
    distill: Stored
    search: Stored
    train: Stored
    again: Stored
    test: Stored
    csv: list[Path]


@pytest.fixture(scope="module")
def stages(home: None, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    folder = tmp_path_factory.mktemp("stages")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["lightning-nas"])
        patch.delenv("WANDB_MODE", raising=False)  # the overlay is offline by itself
        before = _environment()
        distilled = command("distill/distribution_matching.yaml", "--trainer.max_epochs=2").model
        data = ["--data=lightning_nas.distill.data_module.DistilledDataModule", "--data.batch_size=2"]
        data += [FEWER, f"--data.proxy_path={distilled.outputs['proxy'][0]}", "--model.selection_images=2"]
        found = command("search/darts.yaml", "--trainer.max_epochs=3", *data).model.outputs["architecture"][0]
        train = [f"--model.architecture={found}", "--trainer.max_epochs=2", "--data.validation_fraction=0.25"]
        command("train/digits.yaml", *train)
        trained = command("train/digits.yaml", *train, "--model.label_smoothing=0.1")
        checkpoint = str(trained.trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
        command("train/digits.yaml", *train, "--ckpt_path", checkpoint, subcommand="test")
        end()
        assert _environment() == before
    logs = sorted((folder / "runs" / "lightning_logs").iterdir())
    runs = stored_runs(folder)
    assert len(logs) == len(runs) == 5
    return Stages(folder, *runs, csv=logs)


# -- what the stages log --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_stage_is_a_run_of_its_own_that_has_ended(stages: Stages) -> None:
    runs = [stages.distill, stages.search, stages.train, stages.again, stages.test]
    assert [r.config["task"] for r in runs] == ["DistillTask", "BilevelTask", "TrainTask", "TrainTask", "TrainTask"]
    assert [r.config["command"] for r in runs] == ["fit", "fit", "fit", "fit", "test"]
    assert [r.exit_code for r in runs] == [0] * 5


@pytest.mark.slow
def test_curves_are_those_of_the_csv_files(stages: Stages) -> None:
    runs = [stages.distill, stages.search, stages.train, stages.again, stages.test]
    keys = {"train/loss"}, {"search/loss", "train/loss", "search/entropy_normal"}, {"train/accuracy", "val/loss"}
    expected = [*keys, keys[2], {"test/accuracy"}]
    for stored, folder, some in zip(runs, stages.csv, expected, strict=True):
        rows = csv_rows(folder)
        curves = {key for row in rows for key in row if key not in ("step", "epoch")}
        assert some <= curves
        for key in curves:
            values = [(int(row["step"]), float(row[key])) for row in rows if row[key]]
            assert [step for step, _ in stored.curve(key)] == [step for step, _ in values]
            assert [v for _, v in stored.curve(key)] == pytest.approx([v for _, v in values])
    assert len(stages.search.curve("search/loss")) == 3


@pytest.mark.slow
def test_pictures_of_a_search_show_every_epoch_at_the_step_of_its_curves(stages: Stages) -> None:
    space = build_space(load_architecture(stages.csv[1] / "architecture.json").space)
    assert isinstance(space, DARTSSpace)
    alphas = read_tensors(stages.csv[1] / "alphas.safetensors", repair="")
    graphs = {g.name: g for g in space.graphs(load_architecture(stages.csv[1] / "architecture.json"))}
    epochs = ["epoch 1", "epoch 2", "epoch 3"]
    steps = [step for step, _ in stages.search.curve("search/loss")]
    for name in ("normal", "reduce"):
        for key in (f"alphas/{name}", f"cells/{name}"):
            assert [row["trainer/global_step"] for row in stages.search.rows(key)] == steps
            pictures = stages.search.pictures(key)
            assert list(pictures) == epochs
            assert all(p.format == "PNG" and p.width > 600 for p in pictures.values())
        for i, picture in enumerate(stages.search.pictures(f"alphas/{name}").values()):
            rows = edge_names(space, graphs[name])
            drawn = draw_heat_map(alphas[name][i], f"{name} cell, epoch {i + 1}", space.operations, rows)
            assert picture.tobytes() == Image.open(io.BytesIO(png(drawn, DPI))).tobytes()
        last = stages.search.pictures(f"cells/{name}")["epoch 3"]
        assert last.tobytes() == Image.open(io.BytesIO(png(draw_cell(graphs[name]), DPI))).tobytes()


@pytest.mark.slow
def test_a_distillation_ends_with_pictures_of_proxy_and_real_images(stages: Stages) -> None:
    pictures = stages.distill.pictures("proxy/images")
    assert list(pictures) == ["proxy: what the search sees", "real images of the same classes"]
    # rows of classes: two proxy images each, and eight real ones
    proxy, real = pictures.values()
    assert proxy.height == real.height
    assert real.width > 3 * proxy.width
    assert len(stages.distill.rows("proxy/images")) == 1


@pytest.mark.slow
def test_a_search_ends_with_its_selection_errors(stages: Stages) -> None:
    measured = json.loads((stages.csv[1] / "architecture.json").read_text())["provenance"]["selection_errors"]
    for kind in ("edges", "operations"):
        for name in ("decided", "undecided", "images"):
            logged = [value for _, value in stages.search.curve(f"selection_errors/{kind}_{name}")]
            assert logged == [measured[kind][name]]


@pytest.mark.slow
def test_every_run_keeps_its_own_config(stages: Stages) -> None:
    runs = [stages.distill, stages.search, stages.train, stages.again, stages.test]
    for stored, folder in zip(runs, stages.csv, strict=True):
        text = (stored.folder / "files" / "cli_config.yaml").read_text()
        assert text == (folder / "cli_config.yaml").read_text()
        assert stored.config["cli"] == yaml.safe_load(text)
    smoothing = [r.config["cli"]["model"]["init_args"]["label_smoothing"] for r in (stages.train, stages.again)]
    assert smoothing == [0.0, 0.1]


def md5(path: Path) -> str:
    return base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()


@pytest.mark.slow
def test_artifacts_are_the_files_that_stages_hand_on(stages: Stages) -> None:
    expected = {
        "distill": {"proxy": ["proxy.json", "proxy.safetensors"]},
        "search": {"architecture": ["architecture.json"], "alphas": ["alphas.safetensors"]},
        "train": {},
        "test": {},
    }
    folders = dict(zip(("distill", "search"), stages.csv, strict=False))
    for stage, artifacts in expected.items():
        stored: Stored = getattr(stages, stage)
        assert stored.artifacts.keys() == artifacts.keys()
        for name, files in artifacts.items():
            logged = stored.artifacts[name]
            assert logged.type == name
            assert {c.path: c.digest for c in logged.manifest.contents} == {f: md5(folders[stage] / f) for f in files}
            assert set(logged.aliases) == {"latest", logged.digest}
            # what is uploaded is a copy, whatever becomes of the file
            assert {md5(Path(c.local_path)) for c in logged.manifest.contents} == {
                md5(folders[stage] / f) for f in files
            }
            described = stored.config["outputs"][name]
            assert described["digest"] == logged.digest
            assert {f["path"]: f["digest"] for f in described["files"]} == {
                str(folders[stage] / f): md5(folders[stage] / f) for f in files
            }


@pytest.mark.slow
def test_configs_tell_which_run_made_what_another_one_read(stages: Stages) -> None:
    read = {name: getattr(stages, name).config.get("inputs", {}) for name in ("distill", "search", "train", "test")}
    assert read["distill"] == {}
    assert read["search"] == {"proxy": stages.distill.config["outputs"]["proxy"]}
    assert read["train"] == read["test"] == {"architecture": stages.search.config["outputs"]["architecture"]}


# -- the callback by itself -----------------------------------------------------------------------------------------


def captions(folder: Path) -> list[list[str]]:
    return [list(stored.pictures("cells/normal")) for stored in stored_runs(folder)]


@pytest.mark.slow
def test_pictures_may_be_rarer_and_a_resumed_run_draws_its_own_epochs(home: None, tmp_path: Path) -> None:
    whole = [FEWER, "--wandb_log.every_n_epochs=3", "--trainer.max_epochs=4"]
    half = command("search/darts.yaml", *whole, "--trainer.callbacks+=tests.helpers.StopAfterFirst")
    checkpoint = str(half.trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    command("search/darts.yaml", *whole, "--ckpt_path", checkpoint)
    end()
    assert captions(tmp_path) == [["epoch 1"], ["epoch 3", "epoch 4"]]


def test_every_n_epochs_is_checked() -> None:
    with pytest.raises(ConfigError, match="every_n_epochs is 0"):
        WandbLog(every_n_epochs=0)


@pytest.mark.slow
def test_runs_without_wandb_are_left_alone(tmp_path: Path) -> None:
    config = tiny("search/darts.yaml", tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    run(["fit", "--config", "tiny.yaml"])
    assert wandb.run is None
    assert not list(tmp_path.rglob("*wandb*"))
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.slow
def test_a_disabled_run_records_nothing(home: None, tmp_path: Path) -> None:
    command("train/digits.yaml", "--trainer.logger.mode=disabled")
    end()
    assert stored_runs(tmp_path) == []


@pytest.mark.slow
def test_a_search_logs_its_curves_and_its_front(home: None, tmp_path: Path) -> None:
    table = f"--model.evaluator.evaluator.table.path={write_nasbench201('table.npz')}"
    small = ["channels=2", "cells=1", "image_shape=[3,8,8]"]
    arguments = [f"--model.evaluator.costs.{each}" for each in small]
    arguments += [
        table,
        "--model.final_evaluator=null",
        "--model.budget=24",
        "--model.generation_size=6",
        "--model.output_dir=out",
    ]
    arguments += [
        "--model.strategy.population_size=6",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
    ]
    configs = ["--config", str(ROOT / "configs" / "evolve" / "nsga2.yaml")]
    configs += ["--config", str(ROOT / "configs" / "logger" / "wandb.yaml")]
    run(["fit", *configs, *arguments])
    end()
    (stored,) = stored_runs(tmp_path)
    (folder,) = Path("runs").glob("lightning_logs/*")
    rows = csv_rows(folder)
    names = {"best/accuracy", "mean/accuracy", "diversity", "front/size", "queries"}
    assert names < set(rows[0])
    for name in names:
        values = [(int(row["step"]), float(row[name])) for row in rows]
        assert len(values) == 4
        assert [step for step, _ in stored.curve(name)] == [step for step, _ in values]
        assert [value for _, value in stored.curve(name)] == pytest.approx([value for _, value in values])
    front = Front.load("out/front.json")
    ((caption, picture),) = stored.pictures("front/macs").items()
    assert caption == f"{len(front.members)} of 24 are on the front"
    assert picture.tobytes() == Image.open(io.BytesIO(png(front.pictures()["macs"], DPI))).tobytes()
    assert {"front", "architecture", "history"} <= set(stored.artifacts)
    assert set(stored.config["outputs"]) == {"front", "architecture", "history"}


# -- modes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "argument", "expected"),
    [
        (None, None, "offline"),
        ("", None, "offline"),
        ("online", None, "online"),
        ("disabled", None, "disabled"),
        ("online", "offline", "offline"),
        ("offline", "online", "online"),
    ],
)
def test_the_mode_is_that_of_the_argument_else_of_the_variable_else_offline(
    variable: str | None, argument: Any, expected: str
) -> None:
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "init", lambda **options: asked.append(options["mode"]) or SimpleNamespace())
        patch.delenv("WANDB_MODE") if variable is None else patch.setenv("WANDB_MODE", variable)
        overlay = merge(read_yaml(OVERLAY), {})["trainer"]["logger"][1]["init_args"]
        _ = WandbRunLogger(mode=argument, **overlay).experiment
        assert os.environ.get("WANDB_MODE") == variable
    assert asked == [expected]


def test_a_run_that_the_user_began_is_joined(home: None, tmp_path: Path) -> None:
    mine = wandb.init(mode="offline", dir=tmp_path)
    logger = WandbRunLogger(save_dir=str(tmp_path))
    with pytest.warns(UserWarning, match="already in progress"):
        assert logger.experiment is mine
    with pytest.warns(UserWarning, match="already in progress"):
        assert WandbRunLogger(save_dir=str(tmp_path)).experiment is mine
    end()


# -- online ---------------------------------------------------------------------------------------------------------


class OnlineRun:
    """What a W&B run is asked while it is online."""

    offline = disabled = False
    entity, project = "me", "mine"

    def __init__(self) -> None:
        self.config = self
        self.used: list[tuple[Any, str]] = []
        self.told: dict[str, Any] = {}

    def update(self, content: dict[str, Any], allow_val_change: bool) -> None:
        self.told |= content

    def use_artifact(self, artifact: Any, type: str) -> None:
        self.used.append((artifact, type))


class Server:
    """The versions of artifacts that a project has, by name and alias, and its runs."""

    def __init__(self, known: dict[str, str], runs: list[Any] | None = None) -> None:
        self.known = known
        self.listed = runs or []

    def artifact_exists(self, name: str, type: str) -> bool:
        return self.known.get(name) == type

    def artifact(self, name: str, type: str) -> str:
        assert self.known[name] == type
        return name

    def runs(self, path: str) -> list[Any]:
        assert path == "me/mine"
        return self.listed


@pytest.mark.parametrize("known", [True, False], ids=["logged before", "from elsewhere"])
def test_an_online_run_declares_what_it_reads(tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = DARTSSpace().sample(torch.Generator().manual_seed(0)).save(tmp_path / "a_copy.json")
    # W&B's digest of an artifact: the paths and digests of its files
    whole = hashlib.md5(f"wandb-artifact-manifest-v1\narchitecture.json:{md5(path)}\n".encode()).hexdigest()
    name = f"me/mine/architecture:{whole}"
    monkeypatch.setattr(wandb, "Api", lambda: Server({name: "architecture"} if known else {}))
    online = OnlineRun()
    trainer: Any = quiet_trainer(logger=WandbRunLogger(experiment=online))
    task: Any = SimpleNamespace(inputs={"architecture": [path]})
    WandbLog().setup(trainer, task, "fit")
    ((used, kind),) = online.used
    assert kind == "architecture"
    assert online.told["inputs"] == {
        "architecture": {"digest": whole, "files": [{"path": str(path), "digest": md5(path)}]}
    }
    if known:
        assert used == name
    else:
        assert (used.name, used.digest) == ("architecture", whole)


# -- the workspace ---------------------------------------------------------------------------------------------------


@pytest.fixture
def workspace() -> Any:
    """The module of the script."""
    spec = importlib.util.spec_from_file_location("wandb_workspace", ROOT / "docs" / "wandb_workspace.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_workspace_shows_what_the_stages_log(stages: Stages, workspace: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses pydantic's old names
        pytest.importorskip("wandb_workspaces", reason="pip install wandb-workspaces")
        built = workspace.build("me", "mine", ["normal", "reduce"])
    columns = {name for folder in stages.csv for row in csv_rows(folder) for name in row}
    runs = [stages.distill, stages.search, stages.train, stages.test]
    logged = {key for stored in runs for row in stored.history for key in row}
    panels = [panel for section in built.sections for panel in section.panels]
    shown: dict[str, set[str]] = {"y": set(), "metrics": set(), "media_keys": set()}
    for panel in panels:
        for kind, keys in shown.items():
            keys |= set(getattr(panel, kind, []))
    assert shown["y"] <= columns
    assert shown["y"] | shown["metrics"] | shown["media_keys"] <= logged
    # all curves but those of five classes and more, and all pictures
    assert columns - shown["y"] - shown["metrics"] == {"step", "epoch", "test/loss"}
    assert shown["media_keys"] == {key for key in logged if key.split("/")[0] in ("alphas", "cells", "proxy")}
    assert {panel.x for panel in panels if hasattr(panel, "x")} == {"trainer/global_step"}
    assert all("trainer/global_step" in row for stored in runs for row in stored.history)


@pytest.mark.slow
def test_the_script_declares_the_inputs_of_offline_runs(stages: Stages, workspace: Any) -> None:
    class Run:
        def __init__(self, name: str, config: dict[str, Any], used: list[str]) -> None:
            self.id, self.config, self.used = name, config, used

        def used_artifacts(self) -> list[Any]:
            return [SimpleNamespace(digest=name.split(":")[1]) for name in self.used]

        def use_artifact(self, artifact: str) -> None:
            self.used.append(artifact)

    proxy = f"me/mine/proxy:{stages.distill.artifacts['proxy'].digest}"
    architecture = f"me/mine/architecture:{stages.search.artifacts['architecture'].digest}"
    runs = {name: Run(name, getattr(stages, name).config, []) for name in ("distill", "search", "train")}
    foreign = Run("foreign", {"inputs": ["x"]}, [])
    server = Server({proxy: "proxy"}, [*runs.values(), foreign])
    path = stages.csv[1] / "architecture.json"
    assert workspace.declare_inputs(server, "me", "mine") == [
        f"search used {proxy}",
        f"train used {path}, which no run of the project has logged",
    ]
    server.known[architecture] = "architecture"
    assert workspace.declare_inputs(server, "me", "mine") == [f"train used {architecture}"]
    assert workspace.declare_inputs(server, "me", "mine") == []
    assert [r.used for r in (*runs.values(), foreign)] == [[], [proxy], [architecture], []]
