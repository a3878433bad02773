"""``lightning-nas predict`` writes predictions, whatever the data."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_nas.__main__ import main
from lightning_nas.cli.lightning import run
from lightning_nas.pipeline.config import merge
from tests.tiny import SHAPE, tiny


def folder_of_images(root: Path) -> Path:
    """Six images of noise of each of three classes, in both subsets."""
    generator = np.random.default_rng(0)
    for subset in ("train", "test"):
        for name in "abc":
            for number in range(6):
                path = root / subset / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(0, 256, (*SHAPE[1:], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return root


def data(kind: str, tmp_path: Path) -> dict[str, Any]:
    """The configuration of a data module with three classes."""
    array = {"class_path": "ArrayDataModule", "init_args": {"path": str(tmp_path / "given" / "images.npz")}}
    return {
        "arrays": array,
        "folder": {
            "class_path": "FolderDataModule",
            "init_args": {"root": str(tmp_path / "images"), "image_size": SHAPE[1], "batch_size": 4},
        },
        "proxy": {
            "class_path": "ProxyDataModule",
            "init_args": {"proxy_path": str(tmp_path / "given" / "proxy.safetensors"), "test": array},
        },
        "halves": {"class_path": "HalvesDataModule", "init_args": {"data": array}},
    }[kind]


def predicted(folder: Path) -> list[list[str]]:
    (path,) = folder.rglob("predictions.csv")
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def trained(tmp_path: Path) -> list[str]:
    """A trained network: the options of a command that goes on with it."""
    config = tiny("train/digits.yaml", tmp_path)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    cli = run(["fit", "--config", "train.yaml"])
    return ["--config", "train.yaml", "--ckpt_path", cli.trainer.checkpoint_callback.best_model_path]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["arrays", "folder", "halves", "proxy"])
def test_predictions_are_those_of_the_network(kind: str, trained: list[str], tmp_path: Path) -> None:
    folder_of_images(tmp_path / "images")
    config = yaml.safe_load((tmp_path / "train.yaml").read_text())
    merged = merge({"model": config["model"], "trainer": config["trainer"]}, {"data": data(kind, tmp_path)})
    merged["trainer"]["default_root_dir"] = str(tmp_path / "out")
    merged["model"]["init_args"]["num_classes"] = 3
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(merged))
    cli = run(["predict", "--config", "other.yaml", *trained[2:]])
    header, *rows = predicted(tmp_path / "out")
    names = ["a", "b", "c"] if kind == "folder" else ["0", "1", "2"]
    assert header == ["image", "class", *(f"probability of {name}" for name in names)]
    (loader,) = [cli.trainer.predict_dataloaders]
    expected, network = [], cli.model.eval()
    for batch in loader:
        images, _ = cli.datamodule.on_after_batch_transfer(batch, 0)
        with torch.no_grad():
            expected += network(images).softmax(1).tolist()
    written = torch.tensor([[float(value) for value in row[2:]] for row in rows])
    torch.testing.assert_close(written, torch.tensor(expected))
    assert [row[1] for row in rows] == [names[row.index(max(row))] for row in expected]
    files = [str(tmp_path / "images" / "test" / c / f"{i}.png") for c in "abc" for i in range(6)]
    assert [row[0] for row in rows] == (files if kind == "folder" else [str(index) for index in range(9)])


def test_what_predicts_nothing_is_refused(trained: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ConfigError: predict needs the weights of a training"):
        main(["predict", *trained[:2]])
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(tiny("search/darts.yaml", tmp_path)))
    found = run(["fit", "--config", "search.yaml"]).trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    with pytest.raises(SystemExit, match="ConfigError: BilevelTask predicts nothing"):
        main(["predict", "--config", "search.yaml", "--ckpt_path", found])
