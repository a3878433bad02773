"""The auto-encoder's search, through the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.cli.lightning import run
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.files.artifacts import read_json
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tasks.autoencoder import AutoEncoderTask

SMALL = {
    "class_path": "lightning_nas.spaces.nasbench201.space.NASBench201Space",
    "init_args": {"operations": ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"]},
}


class Fail(Callback):
    """Fails before step 77."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Say so."""
        if batch_idx == 77:
            raise RuntimeError("the power is gone")


def fit(*args: str, steps: int = 120, callbacks: Any = (), data: Any = None, **model: Any) -> AutoEncoderTask:
    """``lightning-nas fit``: 4,096 architectures, the more 3x3 convolutions the better."""
    arguments = {
        "space": SMALL,
        "evaluator": {"class_path": "tests.tasks.test_evolve.Known"},
        "strategy": {"class_path": "lightning_nas.strategies.tnao.SwarmSearch"},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}},
        "scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": steps}},
        "samples": 60,
        "budget": 70,
        "unlabelled": 200,
        "width": 32,
        "code": 16,
        "layers": 1,
        "output_dir": "out",
        **model,
    }
    keep = {
        "class_path": "ModelCheckpoint",
        "init_args": {
            "dirpath": "kept",
            "filename": "last",
            "every_n_train_steps": 50,
            "enable_version_counter": False,
        },
    }
    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False}
    config = {
        "model": {"class_path": "lightning_nas.tasks.autoencoder.AutoEncoderTask", "init_args": arguments},
        "data": data or {"class_path": "lightning_nas.data.dummy.DummyDataModule", "init_args": {"steps": steps}},
        "trainer": {**quiet, "max_epochs": 1, "log_every_n_steps": 50, "callbacks": [keep, *callbacks]},
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    made: AutoEncoderTask = run(["fit", "--config", "run.yaml", "--run_folder.overwrite", "true", *args]).model
    return made


@pytest.mark.slow
def test_a_search_samples_learns_and_finds_better_ones() -> None:
    task = fit(steps=300)
    results = task.history.results
    texts = {task.history.space.text(a) for a, _ in results}
    assert len(texts) == len(results) == 70
    values = [e.objectives["accuracy"] for _, e in results]
    assert max(values[60:]) > max(values[:60])
    assert sum(values[60:]) / 10 > sorted(values[:60])[-10]
    written = read_json(Path("out/history.json"), repair="")
    assert (written["strategy"], written["samples"], written["queries"]) == ("SwarmSearch", 60, 70)
    best = load_architecture(Path("out/architecture.json"))
    assert best == results[values.index(max(values))][0]
    # what it has never seen comes back, and is ranked
    space = NASBench201Space(**SMALL["init_args"])  # type: ignore[arg-type]
    known = {a.choices for a, _ in results}
    generator = torch.Generator().manual_seed(7)
    held = [a.choices for a in (space.sample(generator) for _ in range(300)) if a.choices not in known]
    choices = torch.tensor(held)
    with torch.no_grad():
        codes = task.autoencoder.eval().encode(choices)
        assert (task.autoencoder.decode(codes).argmax(2) == choices).all(1).float().mean() > 0.7
        scores = task.autoencoder.scores(codes)
    truth = (choices * 1.01 ** torch.arange(6)).sum(1)
    assert float(torch.corrcoef(torch.stack([scores, truth]))[0, 1]) > 0.7


@pytest.mark.slow
def test_a_search_gone_on_with_equals_an_uninterrupted_one() -> None:
    whole = fit()
    asked = whole.history.rows()
    fail = {"class_path": "tests.tasks.test_autoencoder.Fail"}
    with pytest.raises(RuntimeError, match="the power is gone"):
        fit(callbacks=[fail])
    again = fit("--ckpt_path", "kept/last.ckpt")
    assert again.history.rows() == asked
    assert again.history.evaluator.calls == 10  # type: ignore[attr-defined]  # the last queries alone
    for one, two in zip(whole.autoencoder.parameters(), again.autoencoder.parameters(), strict=True):
        assert torch.equal(one, two)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="DummyDataModule as data; it got ArchitecturesDataModule"):
        fit(
            data={
                "class_path": "lightning_nas.data.architectures.ArchitecturesDataModule",
                "init_args": {"space": SMALL},
            }
        )
    allowed = {"cell": [["none"]] * 2 + [["none", "skip_connect"]] * 4}
    with pytest.raises(DataError, match="samples is 60; the space has only 16"):
        fit(space={**SMALL, "init_args": {"operations": ["none", "skip_connect"], "allowed": allowed}})
    with pytest.raises(ConfigError, match="budget is 70; it must be more than samples, 80"):
        fit(samples=80)
