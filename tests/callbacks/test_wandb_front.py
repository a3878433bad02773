"""A search by queries on Weights & Biases, offline: its curves, its front as a picture and as an artifact."""

import csv
from pathlib import Path

import numpy as np
import pytest
import wandb
from PIL import Image

from lightning_nas.callbacks.wandb_log import DPI
from lightning_nas.cli.lightning import run
from lightning_nas.report.figures import png
from lightning_nas.report.front import Front
from lightning_nas.tables.synthetic import write_nasbench201
from tests.callbacks.wandb_file import stored_runs
from tests.conftest import ROOT


def test_a_search_logs_its_curves_and_its_front(tmp_path: Path) -> None:
    table = f"--model.evaluator.evaluator.table.path={write_nasbench201('table.npz')}"
    small = ["channels=2", "cells=1", "image_shape=[3,8,8]"]
    arguments = [f"--model.evaluator.{each}" for each in small]
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
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATA", "CACHE", "CONFIG"):  # where wandb keeps copies of artifacts
            patch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
        patch.setenv("WANDB_SILENT", "true")
        run(["fit", *configs, *arguments])
        wandb.finish()
        wandb.teardown()  # with its process goes the variable that names it
    (stored,) = stored_runs(tmp_path)
    (path,) = Path("runs").glob("lightning_logs/*/metrics.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
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
    Path("again.png").write_bytes(png(front.pictures()["macs"], DPI))
    assert np.array_equal(np.asarray(picture), np.asarray(Image.open("again.png")))
    assert {"front", "architecture", "history"} <= set(stored.artifacts)
    assert set(stored.config["outputs"]) == {"front", "architecture", "history"}
