"""What a forecast prints, and that it leaves nothing behind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_nas.__main__ import main, take_forecast
from lightning_nas.cli.forecast import Measurement, Stopwatch, largest_batch, measure
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.spaces.darts.space import DARTSSpace

DIGITS = {"class_path": "lightning_nas.data.images.DigitsDataModule", "init_args": {"batch_size": 16}}
TRAINER = {"accelerator": "cpu", "devices": 1, "max_epochs": 7}


def write(name: str, configs: Path, folder: Path) -> Path:
    """A shipped configuration with small networks, on the digits."""
    kind = name.split("/")[0]
    config = read_yaml(configs / f"{name}.yaml")
    arguments: dict[str, Any] = {"output_dir": str(folder / "run")}
    if kind == "search":
        arguments |= {"space": {"init_args": {"channels": 2, "cells": 2, "nodes": 1}}, "warmup_epochs": 1}
        config["data"]["init_args"] = {"batch_size": 16, "data": DIGITS}
    elif kind == "distill":
        arguments |= {"scheme": {"init_args": {"images_per_class": 2}}}
        if "matcher" in config["model"]["init_args"]:
            arguments |= {"matcher": {"init_args": {"width": 4, "depth": 1}}}
        config["data"]["init_args"] = {"images_per_class": 4, "steps_per_epoch": 6, "data": DIGITS}
    else:
        path = DARTSSpace(nodes=2).sample(torch.Generator().manual_seed(0)).save(folder / "architecture.json")
        arguments = {"architecture": str(path), "channels": 4, "cells": 2}
        config["data"] = DIGITS
    config["model"] = merge(config["model"], {"init_args": arguments})
    config["trainer"] = TRAINER
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    output = capsys.readouterr().out
    return output, json.loads(output.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch", "steps"),
    [
        ("search/darts", 16, 44),  # halves of 718 images
        ("search/two_scheme", 16, 44),
        ("train/digits", 16, 89),  # 1,437 images
        ("distill/distribution_matching", 40, 6),  # 4 images of each of 10 classes
        ("distill/noise", 40, 6),  # nothing to train
    ],
)
def test_a_forecast_adds_up_and_leaves_nothing_behind(
    name: str, batch: int, steps: int, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(name, configs, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    main(["forecast", "--config", str(path), "--trainer.callbacks+=ModelCheckpoint"])
    output, found = printed(capsys)
    assert sorted(tmp_path.rglob("*")) == before
    assert (found["batch_size"], found["steps_per_epoch"], found["epochs"]) == (batch, steps, 7)
    assert found["seconds_per_step"] > 0
    assert found["seconds_per_epoch"] == pytest.approx(steps * found["seconds_per_step"])
    assert found["hours"] == pytest.approx(7 * found["seconds_per_epoch"] / 3600)
    assert 0 < found["peak_memory_mib"] < found["available_memory_mib"]
    # small images: the data are the limit, or what memory there is beyond them
    assert 0 < found["largest_batch_size"] <= 1437
    assert list(found["largest_setting"]) == ["images_per_class" if batch == 40 else "batch_size"]
    assert "estimate" in output
    assert "no validation" in output
    assert "not started" in output


def test_fit_only_forecasts_when_it_is_told_so(
    configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("train/digits", configs, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    main(["fit", "--forecast", "true", "--config", str(path), "--data.init_args.batch_size=32"])
    _, found = printed(capsys)
    assert sorted(tmp_path.rglob("*")) == before
    assert (found["batch_size"], found["steps_per_epoch"]) == (32, 44)
    assert take_forecast(["--x", "1", "--forecast=true", "-c", "y"]) == (True, ["--x", "1", "-c", "y"])
    assert take_forecast(["--forecast", "false", "--trainer.max_epochs", "-1"])[0] is False


@pytest.mark.parametrize("args", [["--model.chanels=3"], ["--trainer.max_epoch=3"], ["--forecats=true"]])
def test_wrong_keys_are_named_by_the_parser(args: list[str], configs: Path, tmp_path: Path) -> None:
    path = write("train/digits", configs, tmp_path)
    wrong = args[0].split("=")[0].split(".")[-1].lstrip("-")
    with pytest.raises(SystemExit, match=f"ConfigError: .*{wrong} is not an .*Did you mean"):
        main(["forecast", "--config", str(path), *args])


def test_a_training_without_an_end_is_refused(configs: Path, tmp_path: Path) -> None:
    path = write("train/digits", configs, tmp_path)
    with pytest.raises(SystemExit, match=r"ConfigError: .*max_epochs is -1"):
        main(["forecast", "--config", str(path), "--trainer.max_epochs=-1"])


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_short_epochs_are_measured_within_one(batches: int, configs: Path, tmp_path: Path) -> None:
    path = write("distill/distribution_matching", configs, tmp_path)
    found = measure(["--config", str(path), f"--data.steps_per_epoch={batches}"])
    assert found.steps == batches
    assert found.seconds > 0


def test_another_size_is_measured_by_a_factor(configs: Path, tmp_path: Path) -> None:
    args = ["--config", str(write("search/darts", configs, tmp_path))]
    assert measure(args, 0.5).batch == 8
    assert Stopwatch().size is None


def measurement(batch: int, peak: int) -> Measurement:
    return Measurement("cpu", batch, 1000, ("batch_size", batch), 0.1, 10, 2, peak, 10_000)


@pytest.mark.parametrize(
    ("peaks", "largest"),
    [
        ((2000, 3600), 80),  # 100 an image above 400: (9000 - 400) / 100 = 86
        ((8800, 16800), 16),  # 18, were it not for multiples of 8
        ((2000, 2000), 1000),  # no growth: the data
        ((2000, 2001), 1000),
        ((9900, 18000), 8),  # already above what should be filled
    ],
)
def test_the_largest_batch_is_on_the_line_through_two_peaks(peaks: tuple[int, int], largest: int) -> None:
    assert largest_batch(measurement(16, peaks[0]), measurement(32, peaks[1])) == largest
