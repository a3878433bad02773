"""Shapley-NAS: alphas follow contributions to the accuracy, against the authors' update written as a loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_nas.differentiable import BetaDecay, EdgeSoftmax, HardGumbelSoftmax, SelfDistillation, SoftmaxScore
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tasks import BilevelTask, ShapleyTask
from tests.helpers import FixedHalves, quiet_trainer

SPACE = NASBench201Space(channels=2, cells_per_stage=1)


def options(folder: Path) -> dict[str, Any]:
    torch.manual_seed(7)
    return {
        "space": SPACE,
        "discretizer": SoftmaxScore(),
        "weight_optimizer": lambda p: torch.optim.SGD(p, lr=0.05),
        "alpha_optimizer": lambda p: torch.optim.SGD(p, lr=0.1),
        "output_dir": str(folder),
        "num_classes": 3,
        "image_shape": (3, 8, 8),
        "selection_images": 0,
    }


def make(folder: Path, **given: Any) -> ShapleyTask:
    defaults = {"samples": 2, "measured_images": 12, "warmup_epochs": 1, "truncation": 0.9}
    return ShapleyTask(**{**options(folder), **defaults, **given})


def fit(task: BilevelTask, *callbacks: Any, path: Path | None = None, **given: Any) -> BilevelTask:
    trainer = quiet_trainer(**{"max_epochs": 3, "callbacks": list(callbacks), **given})
    trainer.fit(task, datamodule=FixedHalves(dtype=torch.float32), ckpt_path=path)
    return task


class StopAt(Callback):
    """Ends a training after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask the trainer to stop."""
        trainer.should_stop = trainer.current_epoch >= self.epoch


class Recorded(ShapleyTask):
    """Keeps what each epoch has found, and the alphas after it."""

    def contributions(self) -> dict[str, Tensor]:
        """Record."""
        found = super().contributions()
        self.seen = [*getattr(self, "seen", []), (found["cell"], self.model.alphas["cell"].detach().clone())]
        return found


def test_alphas_take_a_step_along_the_averaged_contributions(tmp_path: Path) -> None:
    defaults = {"samples": 2, "measured_images": 12, "warmup_epochs": 1, "momentum": 0.6}
    task = Recorded(**options(tmp_path), **defaults)
    start = task.model.alphas["cell"].detach().clone()
    fit(task)
    assert len(task.seen) == 2, "none in the warm-up"
    assert torch.equal(task.seen[0][1], start)
    expected, average = start, torch.zeros_like(start)
    for found, before in task.seen:
        torch.testing.assert_close(before, expected)
        assert found.mean().item() == pytest.approx(0, abs=1e-6)
        assert found.std().item() == pytest.approx(1, abs=1e-5)
        average = 0.6 * average + 0.4 * found
        expected = expected + 0.1 * average
    torch.testing.assert_close(task.model.alphas["cell"].detach(), expected)
    assert not torch.equal(expected, start)


def test_contributions_are_what_the_accuracy_falls_by(tmp_path: Path) -> None:
    """An accuracy that counts which operations are left has known contributions."""
    worth = torch.rand(SPACE.edges, len(SPACE.operations), dtype=torch.float64)

    class Counted(ShapleyTask):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.model.loss_and_accuracy = self.counted  # type: ignore[method-assign]

        def counted(self, images: Tensor, labels: Tensor, mixtures: Any = None) -> tuple[float, float]:
            return 0.0, float((worth * (mixtures["cell"].operations > 0)).sum())

        def on_train_epoch_start(self) -> None:
            self.measured = self.contributions()["cell"]

    task = Counted(**options(tmp_path), samples=3, measured_images=2, warmup_epochs=0, truncation=0.0)
    fit(task, max_epochs=1)
    torch.testing.assert_close(task.measured.double(), (worth - worth.mean()) / worth.std(), rtol=1e-4, atol=1e-5)


def test_weights_are_trained_as_in_a_search_with_still_alphas(tmp_path: Path) -> None:
    from lightning_nas.differentiable import FirstOrder

    still = BilevelTask(hypergradient=FirstOrder(), warmup_epochs=2, **options(tmp_path))
    # it ends before the first epoch in which the alphas move
    tasks = [fit(task, StopAt(1)) for task in (make(tmp_path, warmup_epochs=2), still)]
    for mine, theirs in zip(*(task.state_dict().values() for task in tasks), strict=True):
        assert torch.equal(mine, theirs)


def test_a_resumed_search_finds_the_same(tmp_path: Path) -> None:
    ends = []
    for path in (None, tmp_path / "epoch=1.ckpt"):
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, enable_version_counter=False)
        task = make(tmp_path)
        fit(task, keep, path=path, enable_checkpointing=True)
        ends.append({**task.state_dict(), **task.values})
    assert ends[0]["cell"].any()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_contributions_start_anew_with_a_new_supernet(tmp_path: Path) -> None:
    task = make(tmp_path)
    task.values["cell"] += 1
    task.model.restrict({"cell": SPACE.allowed["cell"]})
    assert task.values["cell"].all(), "the supernet keeps its weights"
    task.model.rebuild(SPACE, seed=1)
    assert not task.values["cell"].any()


def test_what_is_told_about_a_search_is_what_it_uses(tmp_path: Path) -> None:
    task = make(tmp_path, regularizers=[SelfDistillation()])
    names = [type(part).__name__ for part in task.components]
    assert names == ["Softmax", "SoftmaxScore", "SelfDistillation"]
    fit(task, max_epochs=2)
    assert task.provenance()["components"] == names
    missing = {"search/loss", "search/accuracy"}
    assert set(BilevelTask.metrics_logged) - set(ShapleyTask.metrics_logged) == missing
    assert not missing & task.trainer.callback_metrics.keys()


def test_operations_that_are_not_allowed_are_no_players(tmp_path: Path) -> None:
    allowed = SPACE.allowed["cell"].clone()
    allowed[0, 1:] = allowed[2, 0] = False
    task = make(tmp_path, space=SPACE.restrict({"cell": allowed}))
    assert len(task.players) == int(allowed.sum())
    fit(task, max_epochs=2)
    assert not task.values["cell"][~allowed].any()


def test_what_does_not_go_with_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="alpha per edge, which is not a player"):
        make(tmp_path, normalization=EdgeSoftmax())
    with pytest.raises(ConfigError, match="computes one operation per edge"):
        make(tmp_path, relaxation=HardGumbelSoftmax())
    with pytest.raises(ConfigError, match="BetaDecay adds a term to the loss of the alphas"):
        make(tmp_path, regularizers=[SelfDistillation(), BetaDecay()])
    with pytest.raises(ConfigError, match="max_epochs is 3, but .* first 3 epochs.* warmup_epochs, 3,"):
        fit(make(tmp_path, warmup_epochs=3))
    fit(make(tmp_path, warmup_epochs=3), fast_dev_run=True)
    for name, value in (("samples", 0), ("truncation", 2), ("momentum", 1), ("measured_images", 1)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            make(tmp_path, **{name: value})
