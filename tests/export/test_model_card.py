"""``lightning-nas export`` of a real training, and the model card that it writes."""

import contextlib
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_nas.__main__ import main
from lightning_nas.cli.exports import export_checkpoint, size, trained_network
from lightning_nas.cli.lightning import run
from lightning_nas.data import DummyDataModule
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.export.formats import Description
from lightning_nas.export.measured import Accuracy, Latency, Measured
from lightning_nas.export.model_card import ModelCard
from lightning_nas.export.preprocessing import Preprocessing
from lightning_nas.files.locks import locked
from lightning_nas.terminal import INDENT
from tests.conftest import ROOT
from tests.genotypes import TWO_NODES

pytest.importorskip("onnxruntime", reason='all formats: pip install "lightning_nas[onnx]"')

CONFIG = ROOT / "configs" / "train" / "digits.yaml"
FILES = ["README.md", "network.onnx", "network.pt", "network.pt2", "network.py"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two steps on scikit-learn's digits."""
    folder = tmp_path_factory.mktemp("training")
    over: dict[str, Any] = {
        "model.architecture": TWO_NODES,
        "model.channels": 4,
        "model.cells": 1,
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 2,
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "trainer.default_root_dir": folder,
    }
    run(["fit", "--config", str(CONFIG), *(f"--{key}={value}" for key, value in over.items())])
    (path,) = folder.glob("**/*.ckpt")
    return path


@dataclass
class Command:
    """An export by the command, and what it printed."""

    folder: Path
    output: str
    errors: str


@pytest.fixture(scope="module")
def command(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    path = tmp_path_factory.mktemp("run") / "export"
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        main(["export", "--ckpt_path", str(checkpoint), "--output_dir", str(path)])
    return Command(path, output.getvalue(), errors.getvalue())


@pytest.fixture
def folder(command: Command) -> Path:
    return command.folder


def parts(card: Path) -> tuple[dict[str, Any], str]:
    """Front matter and body."""
    _, front, body = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def row(body: str, name: str) -> str:
    """The value of a table's row."""
    (found,) = re.findall(rf"^\| {name} \| (.*) \|$", body, flags=re.MULTILINE)
    return str(found)


def results(output: str) -> list[str]:
    """The lines of an output without those that tell what is being done, which are indented."""
    return [line for line in output.splitlines() if not line.startswith(INDENT)]


def test_the_command_prints_a_line_a_file_and_nothing_else(command: Command) -> None:
    assert command.errors == ""
    unchecked, *files, card = results(command.output.replace(str(command.folder), "out"))
    assert re.fullmatch(r"The preprocessing of the files is not compared .*: --config FILE .*", unchecked)
    found = [re.fullmatch(r"out/(network\.\w+): largest difference to the task (\d\.\de[-+]\d\d)", f) for f in files]
    assert [match and match[1] for match in found] == ["network.py", "network.pt2", "network.onnx"]
    assert all(float(match[2]) <= 1e-5 for match in found if match)
    assert card.startswith("out/README.md: model card")
    assert sorted(path.name for path in command.folder.glob("[!.]*")) == FILES


def test_formats_and_licence_are_taken_from_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    main(["export", "--ckpt_path", str(checkpoint), "--output_dir", "out", "--formats", "py", "--licence", "mit"])
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["README.md", "network.pt", "network.py"]
    front, body = parts(tmp_path / "out" / "README.md")
    assert front["license"] == "mit"
    assert "onnx" not in front["tags"]
    assert row(body, "licence") == "mit"
    assert "network.pt2" not in body
    assert "onnx" not in body
    with pytest.raises(SystemExit, match="ConfigError.*tflite"):
        main(["export", "--ckpt_path", str(checkpoint), "--output_dir", "other", "--formats", "tflite"])
    assert not (tmp_path / "other").exists()


def test_without_the_onnx_packages_the_others_are_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # what makes an import fail
    main(["export", "--ckpt_path", str(checkpoint), "--output_dir", "out"])
    left_out, *others = results(capsys.readouterr().out)
    assert left_out.startswith("network.onnx is left out")
    assert len(others) == 4
    names = ["README.md", "network.pt", "network.pt2", "network.py"]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == names
    assert "onnx" not in (tmp_path / "out" / "README.md").read_text()
    # asked for by name, it is an error before anything is written
    with pytest.raises(SystemExit, match=r"MissingDependencyError: Cannot import onnx,.*lightning_nas\[onnx\]"):
        main(["export", "--ckpt_path", str(checkpoint), "--output_dir", "other", "--formats", "py", "onnx"])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("file_name", ["network.py", "network.pt2", "network.onnx"])
def test_the_code_of_the_card_runs_and_is_right(
    folder: Path, checkpoint: Path, file_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, body = parts(folder / "README.md")
    sections = re.findall(r"^### (\S+)\n.*?^```python\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)
    assert [name for name, _ in sections] == ["network.py", "network.pt2", "network.onnx"]
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    scope: dict[str, Any] = {}
    try:
        exec(compile(dict(sections)[file_name], file_name, "exec"), scope)
    finally:
        sys.modules.pop("network", None)
    network, kept = trained_network(checkpoint)
    images = torch.as_tensor(np.asarray(scope["images"]))
    shape = tuple(kept["network"]["image_shape"])
    assert images.dtype == torch.uint8
    assert images.shape[:2] == (2, shape[0])
    assert images.shape[1:] != shape
    with torch.no_grad():
        expected = network(Preprocessing(shape, kept["mean"], kept["std"])(images))
    assert torch.allclose(torch.as_tensor(np.asarray(scope["logits"])), expected, rtol=0, atol=1e-5)
    assert scope["names"] == [kept["class_names"][i] for i in expected.argmax(dim=1).tolist()]


def test_the_card_tells_what_is_known_and_invents_nothing(folder: Path, checkpoint: Path) -> None:
    front, body = parts(folder / "README.md")
    network, kept = trained_network(checkpoint)
    assert set(front) == {"license", "library_name", "pipeline_tag", "tags"}
    assert front["license"] == "unknown"
    assert front["pipeline_tag"] == "image-classification"
    assert "onnx" in front["tags"]
    assert TWO_NODES in body
    assert "`DARTSSpace`" in body
    if "data" not in kept:
        assert "does not say" in row(body, "data module")
        assert "does not say" in row(body, "training images")
    assert row(body, "test accuracy") == "not measured here"
    assert row(body, "licence") == "not stated"
    assert row(body, "classes") == "10"
    assert row(body, "image") == "1 channel, 8 x 8 pixels"
    assert float(row(body, "mean")) == pytest.approx(kept["mean"][0], rel=1e-5)
    assert float(row(body, "std")) == pytest.approx(kept["std"][0], rel=1e-5)
    assert row(body, "torch") == torch.__version__.partition("+")[0]
    # the auxiliary head is off in this configuration, so these are all of the network's
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert row(body, "parameters") == f"{parameters:,}"
    assert row(body, "multiply-accumulates per image") == f"{size(kept)['macs']:,}"
    for name in ("network.py", "network.pt2", "network.onnx"):
        assert float(row(body, re.escape(name)).removeprefix("largest difference ")) <= 1e-5
    assert '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]' in body
    for heading in ("Architecture", "Data", "Figures", "How to use it", "Parity", "Limitations"):
        assert f"\n## {heading}\n" in body


def test_what_a_caller_measured_is_in_the_card(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    module = "lightning_nas.data.images.DigitsDataModule"
    content["export"]["data"] = {"class": module, "train_images": 1437}
    names = ["a|b ```\nthree", "<script>alert(1)</script>", "A & B"]
    content["export"]["class_names"][3:6] = names
    torch.save(content, "more.ckpt")
    figures = {"test_accuracy": 0.97311, "top5_accuracy": 1.0, "hours": 0.25}
    done = export_checkpoint(
        Path("more.ckpt"), tmp_path / "out", formats=["py"], figures=figures, licence="Own terms: ask | me"
    )
    front, body = parts(tmp_path / "out" / "README.md")
    assert done["card"] == str(tmp_path / "out" / "README.md")
    assert done["path"] == str(tmp_path / "out" / "network.py")
    assert done["files"] == [{"path": done["path"], "difference": done["difference"]}]
    assert front["license"] == "Own terms: ask | me"
    assert front["metrics"] == ["accuracy"]
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"] == {"name": "DigitsDataModule", "type": module}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.97311}]
    assert row(body, "data module") == f"`{module}`"
    assert row(body, "training images") == "1,437"
    assert row(body, "test accuracy") == "97.31%"
    assert row(body, "top5 accuracy") == "100.00%"
    assert row(body, "hours") == "0.25"
    assert row(body, "licence") == r"Own terms: ask \| me"
    # a name with a line break or a fence stays within its block
    assert body.count("\n```") == 6
    shown = body.partition("```json\n")[2].partition("\n```")[0]
    assert json.loads(shown)[3:6] == names
    assert "<" not in body


def test_the_card_says_how_sure_the_accuracy_is() -> None:
    description = Description((1, 8, 8), ("a", "b"), (0.5,), (0.2,), "a cell", resize="area")
    card = ModelCard(
        "a.Space",
        description,
        [],
        [],
        {"parameters": 1, "macs": 1},
        {"class": "a.Data", "title": "My | data"},
        figures={"test_accuracy": 0.9722222089767456},
        compared=[
            {"label": name, "test_accuracy": rate, "test_accuracies": [rate], "parameters": 10, "macs": 20}
            for name, rate in (("found", 0.97222), ("a random one", 0.94444))
        ],
        test_images=360,
        comparisons=[
            {"label": "a random one", "better": 14, "worse": 4, "ties": 342, "p": 0.0309, "verdict": "better"},
            {"label": "one that was not kept", "better": None, "worse": None, "ties": None, "p": None, "verdict": None},
        ],
        measured=Measured(
            **{"examples": 64, "levels": 0.5, "part": "test", "images": 360, "accuracy": 0.975, "threads": 2},
            accuracies=[Accuracy("network.int8.onnx", 0.96944, 3)],
            latencies=[Latency("network.py", {1: 2.5, 32: 32.0}), Latency("network.onnx", {1: 900.0})],
        ),
    )
    _, front, body = card.text().split("---\n", 2)
    (result,) = yaml.safe_load(front)["model-index"][0]["results"]
    assert result["dataset"]["name"] == "My | data"
    assert result["metrics"] == [{"type": "accuracy", "value": 0.97222}]
    assert row(body, "name") == r"My \| data"
    assert row(body, "test accuracy") == "97.2%"  # 360 images have no more digits
    assert row(body, r"95% interval of the test accuracy \(Wilson\)") == "95.0% to 98.5%"
    assert row(body, "test images") == "360"
    assert row(body, "a random one") == "94.4% | 10 | 20"
    assert (
        "more often on 14 of them and less often on 4; 342 are ties. It is better (exact paired test, p = 0.031)."
        in body
    )
    assert "not kept" not in body
    assert "On 64 training images, their pixels differ from those of the data module by at most 0.50 of 255" in body
    assert "mean of the pixels that it covers" in body
    assert row(body, "`network.int8.onnx`") == "96.9% | 3"
    assert row(body, "`network.py`") == "2.5 | 1"
    assert row(body, "`network.onnx`") == "900 | not measured"


def test_names_of_an_untrusted_checkpoint_stay_text(checkpoint: Path) -> None:
    hostile = "x` <img src=x onerror=alert(1)> [a](javascript:b) *c*"
    description = Description((1, 8, 8), ("a", "<b>"), (0.5,), (0.2,), f"|a~0|\n````\n{hostile}")
    card = ModelCard("a.Space", description, [], [], {"parameters": 1, "macs": 1}, {"class": hostile}, licence=hostile)
    body = card.text().partition("# An image")[2]
    escaped = r"x\` &lt;img src=x onerror=alert(1)&gt; \[a\](javascript:b) \*c\*"
    assert row(body, "data module") == escaped
    assert row(body, "licence") == escaped
    assert f"`````text\n|a~0|\n````\n{hostile}\n`````" in body
    assert body.count("<") == 1  # in the block of code


@pytest.mark.parametrize("data", [{"class": 3}, {"train_images": "many"}, {"other": "x"}, [1], {"train_images": None}])
def test_data_that_no_run_writes_are_refused(checkpoint: Path, data: Any) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["export"]["data"] = data
    torch.save(content, "more.ckpt")
    with pytest.raises(CheckpointError, match=r"more\.ckpt is damaged or was tampered with.*its data are"):
        trained_network("more.ckpt")


def test_a_data_module_without_normalisation_is_told_of(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["export"] |= {"mean": [], "std": [], "class_names": []}
    torch.save(content, "less.ckpt")
    export_checkpoint(Path("less.ckpt"), tmp_path / "out", formats=["py"])
    assert "does not say" in row(parts(tmp_path / "out" / "README.md")[1], "normalisation")


@pytest.mark.parametrize("figures", [{"test_accuracy": 97.3}, {"test_accuracy": float("nan")}, {"hours": float("inf")}])
def test_impossible_figures_are_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, figures: dict[str, float]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(figures))):
        export_checkpoint(checkpoint, tmp_path / "out", formats=["py"], figures=figures)
    assert not (tmp_path / "out").exists()


def test_an_export_has_its_folder_for_itself(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with locked(folder), pytest.raises(SystemExit, match="ConfigError: Another run is writing to .*out"):
        main(["export", "--ckpt_path", str(checkpoint), "--output_dir", str(folder), "--formats", "py"])
    left = folder / f".network.py.{'0' * 16}.part"  # by an export that was killed
    left.touch()
    main(["export", "--ckpt_path", str(checkpoint), "--output_dir", str(folder), "--formats", "py"])
    assert not left.exists()
    with locked(folder):  # it was released
        pass


def test_files_that_appear_while_a_checkpoint_is_read_are_not_replaced(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> Any:
        (tmp_path / "README.md").write_text("mine")
        return trained_network(path)

    monkeypatch.setattr("lightning_nas.cli.exports.trained_network", read)
    with pytest.raises(ConfigError, match=r"has README\.md, which the export would replace"):
        export_checkpoint(checkpoint, tmp_path, formats=["py"], overwrite=False)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.slow
def test_a_quantized_file_is_checked_and_measured_with_the_data_of_the_training(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["export", "--ckpt_path", str(checkpoint), "--output_dir", "out", "--formats", "py", "onnx_int8"]
    main([*given, "--config", "train/digits"])
    *files, levels, accuracy, _ = results(capsys.readouterr().out)
    assert [line.partition(":")[0] for line in files] == ["out/network.py", "out/network.int8.onnx"]
    assert re.fullmatch(r"raw images: .* 0\.00 of 255 levels, on 128 training images", levels)
    measured = re.fullmatch(
        r"network\.int8\.onnx: accuracy (\S+)% on 360 test images; the network has (\S+)%, .* about (\d+) of them",
        accuracy,
    )
    assert measured is not None
    assert abs(float(measured[1]) - float(measured[2])) <= 100 * int(measured[3]) / 360 + 0.01
    _, body = parts(tmp_path / "out" / "README.md")
    assert row(body, "name") == "scikit-learn digits"
    assert f"| `network.int8.onnx` | {float(measured[1]):.1f}% | {measured[3]} |" in body
    assert "differ from those of the data module by at most 0.00 of 255 levels" in body


@pytest.mark.parametrize("data", [None, DummyDataModule()])
def test_a_quantized_file_without_images_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, data: Any
) -> None:
    with pytest.raises(ConfigError, match=r"onnx_int8 is calibrated and measured with images, but .*--config FILE"):
        export_checkpoint(checkpoint, tmp_path / "out", formats=["py", "onnx_int8"], data=data)
    assert not (tmp_path / "out").exists()


def test_files_may_still_take_normalized_floats(checkpoint: Path, tmp_path: Path) -> None:
    main(["export", "--ckpt_path", str(checkpoint), "--output_dir", "out", "--formats", "py", "--raw_images", "false"])
    _, body = parts(tmp_path / "out" / "README.md")
    assert "from network import CLASSES, IMAGE_SHAPE, MEAN, STD, network" in body
    assert "It does not resize or check them" in body
    assert "def classifier" not in (tmp_path / "out" / "network.py").read_text()
