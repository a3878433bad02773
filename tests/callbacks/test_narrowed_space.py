"""A chain of supernets whose space is narrowed from link to link."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_nas.callbacks.narrowed_space import NarrowedSpace
from lightning_nas.cli.lightning import run
from lightning_nas.errors import ConfigError
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.convert import to_per_edge
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.pevonas import shrink


class Start(Callback):
    """Keeps the weights that a training starts from."""

    weights: ClassVar[dict[str, Tensor]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Start.weights = to_per_edge(pl_module.supernet)  # type: ignore[arg-type]


QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
QUIET |= {"enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
DIGITS = {"class_path": "lightning_nas.data.images.DigitsDataModule"}
DIGITS |= {"init_args": {"batch_size": 100, "validation_fraction": 0.2}}  # type: ignore[dict-item]


def run_small(config: Path, changes: dict[str, Any], *arguments: str) -> Any:
    """A shipped configuration on digits, with a small supernet."""
    space = {"init_args": {"channels": 2, "cells_per_stage": 1}}
    trainer = {**QUIET, **changes.pop("trainer", {})}
    whole = merge(read_yaml(config), {"model": {"init_args": {"space": space}}, "trainer": trainer})
    Path("run.yaml").write_text(yaml.safe_dump(merge(whole, changes)))
    return run(["fit", "--config", "run.yaml", *arguments]).model


@pytest.mark.slow
def test_a_chain_of_supernets_inherits_and_narrows(configs: Path) -> None:
    overlay: list[str] = []
    start: list[str] = []
    small = {"population_size": 6, "tournament_size": 2, "patience": 2, "generations": 4}
    scores = {"data": {**DIGITS}, "images": 40, "calibration_images": 20}
    found: Any = None
    before: dict[str, Tensor] = {}
    sizes: list[int] = []
    for number, keep in enumerate((3, 2, 2)):
        folder = f"link{number}"
        callbacks = [{"class_path": f"{__name__}.Start"}]
        training = {"data": DIGITS, "trainer": {"callbacks": callbacks, "limit_val_batches": 0}}
        arguments = [*overlay, *start, "--model.output_dir", folder]
        trained = run_small(configs / "supernet" / "uniform.yaml", training, *arguments)
        weights = to_per_edge(trained.supernet)
        sizes.append(len(weights))
        if before:
            for name, value in Start.weights.items():
                assert torch.equal(value, before[name]), name
        assert any(not torch.equal(value, weights[name]) for name, value in Start.weights.items())
        before = weights
        search: dict[str, Any] = {"strategy": {"init_args": small}, "evaluator": {"init_args": scores}}
        start = ["--model.supernet_path", f"{folder}/supernet.safetensors"]
        given = [
            "--model.evaluator.supernet_path",
            f"{folder}/supernet.safetensors",
            "--trainer.callbacks.keep",
            str(keep),
        ]
        changes = {"model": {"init_args": search}}
        config = configs / "evolve" / "pevonas_supernet.yaml"
        found = run_small(config, changes, *overlay, *given, "--model.output_dir", folder)
        assert found.space.allowed["cell"].sum(1).tolist() == [(5, 3, 2)[number]] * 6
        kept = found.space.restrict({"cell": shrink(found.strategy.alphas, keep, found.strategy.masks)})
        written = read_yaml(Path(folder) / "space.yaml")["model"]["init_args"]["space"]["init_args"]
        assert written == {"allowed": kept.arguments()["allowed"]}
        kept.check(found.history.best[0])
        overlay = ["--config", f"{folder}/space.yaml"]
    assert sizes == sorted(set(sizes), reverse=True)
    best = load_architecture("link2/architecture.json")
    assert best == found.history.best[0]
    NASBench201Space(**read_yaml(Path("link1/space.yaml"))["model"]["init_args"]["space"]["init_args"]).check(best)


def test_only_a_search_by_pevonas_is_narrowed(configs: Path) -> None:
    callback = [{"class_path": "NarrowedSpace", "init_args": {"keep": 2}}]
    with pytest.raises(ConfigError, match="the task is SupernetTask"):
        run_small(configs / "supernet" / "uniform.yaml", {"data": DIGITS, "trainer": {"callbacks": callback}})
    with pytest.raises(ConfigError, match="keep is 0"):
        NarrowedSpace(0)
