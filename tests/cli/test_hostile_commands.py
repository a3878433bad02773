"""Malicious files through every command: one line says what is wrong, and nothing is executed."""

import contextlib
import json
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_nas.__main__ import main
from lightning_nas.cli import lightning as cli
from lightning_nas.cli.exports import trained_network
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.pipeline.config import read_yaml
from lightning_nas.report.page import write_report
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.train import TrainTask
from tests.files.test_hostile_single import DARTS, LARGE, refused
from tests.hostile import (
    EXECUTED,
    PNG,
    checkpoint,
    http_server,
    located,
    malicious,
    nothing_executed,
    with_pickle,
)
from tests.report.pages import whole
from tests.tiny import tiny


@pytest.fixture(autouse=True)
def _nothing_executed() -> Iterator[None]:
    with nothing_executed():
        yield


@pytest.fixture
def config(tmp_path: Path, configs: Path) -> str:
    """A tiny search's configuration, and beside it a malicious checkpoint."""
    content = tiny("search/darts.yaml", tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(content))
    Path("x.ckpt").write_bytes(with_pickle(malicious()))
    return "tiny.yaml"


def test_the_pickle_of_these_tests_would_be_seen() -> None:
    Path("x.ckpt").write_bytes(with_pickle(malicious()))
    torch.load("x.ckpt", weights_only=False)
    assert EXECUTED.exists()
    EXECUTED.unlink()


@pytest.mark.parametrize(
    ("command", "origin"),
    [*((command, "path") for command in ("fit", "validate", "test", "predict", "export"))]
    + [(command, origin) for command in ("fit", "export") for origin in ("file", "http")],
)
def test_commands_refuse_a_malicious_checkpoint(config: str, command: str, origin: str) -> None:
    before = Path("x.ckpt").read_bytes()
    args = ["--config", config] if command != "export" else []
    with http_server() as server:
        place = located("x.ckpt", origin, server)
        said = f"^lightning-nas: CheckpointError: {re.escape(place)} is not a checkpoint that can be read"
        with pytest.raises(SystemExit, match=said):
            main([command, *args, "--ckpt_path", place])
    assert Path("x.ckpt").read_bytes() == before


@pytest.mark.slow
def test_a_refusal_is_one_line_and_an_exit_code(config: str) -> None:
    args = [sys.executable, "-m", "lightning_nas", "test", "--config", config, "--ckpt_path", "x.ckpt"]
    done = subprocess.run(args, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("lightning-nas: CheckpointError: x.ckpt is not a checkpoint")
    assert "Traceback" not in done.stderr


def test_a_forecast_reads_no_checkpoint(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["forecast", "--config", config, "--ckpt_path", "x.ckpt"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["epochs"] == 1


@pytest.mark.parametrize("word", ["last", "hpc"])
def test_checkpoints_that_lightning_finds_itself_are_checked_too(
    config: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # for loads that do not say what they want
    Path("x.ckpt").rename("last.ckpt" if word == "last" else "hpc_ckpt_1.ckpt")
    keeper = [
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.dirpath=.",
        "--trainer.callbacks.save_last=true",
    ]
    with pytest.raises(CheckpointError, match="calls"):
        cli.run(["fit", "--config", config, *keeper, "--trainer.default_root_dir=.", "--ckpt_path", word])


def test_a_checkpoint_exchanged_after_the_check_is_not_executed(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_and_exchange(path: str, asked: dict[str, str], free: list[str]) -> None:
        Path(path).write_bytes(with_pickle(malicious()))

    monkeypatch.setattr(cli, "check_classes", check_and_exchange)
    with pytest.raises((CheckpointError, pickle.UnpicklingError)):
        cli.run(["fit", "--config", config, "--ckpt_path", "x.ckpt"])


def test_a_file_of_the_name_of_a_word_is_checked_too(config: str) -> None:
    Path("x.ckpt").rename("last")
    with pytest.raises(CheckpointError, match="last is not a checkpoint"):
        cli.run(["fit", "--config", config, "--ckpt_path", "last"])


def test_nothing_switches_the_safe_reading_off(config: str) -> None:
    with pytest.raises(ConfigError, match="weights_only is false"):
        cli.run(["fit", "--config", config, "--weights_only", "false"])


def test_a_checkpoint_cannot_have_another_file_deleted(config: str) -> None:
    made = cli.run(["fit", "--config", config]).trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    content = torch.load(made, weights_only=True)
    Path("precious").write_text("kept")
    content["callbacks"]["PreemptionCheckpoint"]["own"] = str(Path("precious").absolute())
    torch.save(content, "x.ckpt")
    cli.run(["fit", "--config", config, "--trainer.max_epochs=3", "--ckpt_path", "x.ckpt"])
    assert Path("precious").read_text() == "kept"


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["path", "file"])
def test_a_checkpoint_cannot_have_folders_deleted(config: str, origin: str) -> None:
    made = cli.run(["fit", "--config", config]).trainer.checkpoint_callback  # type: ignore[union-attr]
    inside = Path(str(made.dirpath)).absolute()
    photos = [Path("photos").absolute(), inside / "photos", inside / "photos.ckpt"]
    content = torch.load(made.best_model_path, weights_only=True)
    (state,) = [each for each in content["callbacks"].values() if "best_model_path" in each]
    with http_server() as server:
        for folder in photos:
            folder.mkdir()
            (folder / "one").touch()
            state["best_model_path"] = f"local://{folder}" if folder.parent != inside else str(folder)
            torch.save(content, "x.ckpt")
            args = ["fit", "--config", config, "--trainer.max_epochs=2"]
            with contextlib.suppress(CheckpointError), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*is a folder, not the file of a checkpoint")
                cli.run([*args, "--ckpt_path", located("x.ckpt", origin, server)])
    assert all((folder / "one").is_file() for folder in photos)


@pytest.mark.parametrize("origin", ["file", "http"])
def test_a_run_goes_on_from_a_checkpoint_of_any_origin(config: str, origin: str) -> None:
    made = cli.run(["fit", "--config", config]).trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    with http_server() as server:
        place = located(made, origin, server)
        trainer = cli.run(["fit", "--config", config, "--trainer.max_epochs=2", "--ckpt_path", place]).trainer
    assert trainer.current_epoch == 2
    assert Path(made).is_file()


def exported(**changes: Any) -> bytes:
    """A checkpoint of a final training, small."""
    space = DARTSSpace(nodes=1)
    architecture = space.sample(torch.Generator().manual_seed(0))
    sizes = {"num_classes": 2, "image_shape": [3, 8, 8], "channels": 2, "cells": 3, "auxiliary": False}
    weights = space.network(architecture, **sizes).state_dict()  # type: ignore[arg-type]
    names = {"class_names": ["a", "b"], "mean": [0.5] * 3, "std": [0.2] * 3}
    kept = {"architecture": architecture.to_dict(), "network": sizes, **names}
    for key, value in changes.items():
        part = kept["network"] if key in sizes else kept
        part[key] = value  # type: ignore[index]
    return checkpoint(state_dict={f"network.{name}": value for name, value in weights.items()}, export=kept)


def test_networks_of_checkpoints_are_read() -> None:
    Path("x.ckpt").write_bytes(exported())
    network, kept = trained_network(Path("x.ckpt"))
    assert network(torch.zeros(1, 3, 8, 8)).shape == (1, 2)
    assert kept["class_names"] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"cells": LARGE}, "tensors for 1000000000 cells"),
        ({"channels": LARGE}, "with 1000000000 channels of the network, are too large"),
        ({"num_classes": LARGE, "class_names": []}, "weights are not of the network"),
        ({"image_shape": [3, 10**6, 10**6]}, "its images of shape .* are too large to run it on"),
        ({"image_shape": [1, 2**13, 2**13]}, "its images of shape .* are too large to run it on"),
        ({"image_shape": [3, 2**11, 2**11]}, "its images of shape .* are too large to run it on"),
        ({"image_shape": [1, 2**12, 2**10], "channels": 17}, "its images of shape .*, with 17 channels"),
        ({"image_shape": 3}, "iterable"),
        ({"auxiliary": 1}, "weights are not of the network|need at least"),
        ({"architecture": {"space": {"class_path": DARTS, "arguments": {"nodes": 99}}, "choices": []}}, "at most 64"),
        ({"class_names": ["a"]}, "its class_names are"),
        ({"mean": [10**400] * 3}, "too large"),
        ({"std": [0.0] * 3}, "not above 0"),
    ],
)
def test_networks_of_checkpoints_that_cannot_be(changes: dict[str, Any], match: str) -> None:
    refused(trained_network, "x.ckpt", exported(**changes), CheckpointError, match)


@pytest.mark.parametrize("content", [b"\xff: 1", b"a: !!timestamp x", b"a: !!bool x", b"[" * 5000, b"9" * 5000])
def test_yaml(content: bytes) -> None:
    refused(read_yaml, "x.yaml", content, ConfigError, "x.yaml is not valid YAML")


def test_lightning_itself_executes_nothing(config: str) -> None:
    with pytest.raises(pickle.UnpicklingError):
        TrainTask.load_from_checkpoint("x.ckpt", map_location="cpu")


def test_a_pipeline_refuses_a_planted_checkpoint(configs: Path) -> None:
    planted = Path("run/search/checkpoints/last.ckpt")
    planted.parent.mkdir(parents=True)
    planted.write_bytes(with_pickle(malicious()))
    args = ["--config", str(configs / "pipeline" / "digits.yaml"), "--run_dir", "run"]
    halves = '{class_path: HalvesDataModule, init_args: {data: "${data}"}}'
    args += ["--stages.distill", "null", "--stages.fidelity", "null", "--stages.search.data", halves]
    with pytest.raises(SystemExit, match=r"^lightning-nas: CheckpointError: .*search/checkpoints/last\.ckpt is not a"):
        main(["pipeline", *args])


@pytest.mark.parametrize("content", [malicious(), b"", PNG])
def test_a_report_of_foreign_files(content: bytes, tmp_path: Path) -> None:
    whole(tmp_path)
    for name in ("alphas.safetensors", "pictures.safetensors", "proxy.json"):  # can be left out
        Path(name).write_bytes(content)
    assert write_report(tmp_path).is_file()
    for name in ("architecture.json", "summary.json"):
        Path(name).write_bytes(content)
        with pytest.raises(SystemExit, match=f"^lightning-nas: ArtifactError: .*{name} is not a complete JSON"):
            main(["report", str(tmp_path)])
