"""P-DARTS: the phases of a search and their dropout."""

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts

from lightning_nas.callbacks.p_darts import PDARTSPhases
from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.callbacks.step_seed import StepSeed
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.differentiable.discretization.skip_cap import SkipCap
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.fused_edges import FusedEdges
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.operations import SkipConnection
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import fixed_images
from tests.helpers import FixedHalves, quiet_trainer

PHASES: dict[str, Any] = {"cells": (3, 4, 5), "kept": (5, 3), "skip_dropout": (0.0, 0.4, 0.7)}
EPOCHS = 9


def make(folder: Path, **options: Any) -> BilevelTask:
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "space": DARTSSpace(nodes=2, channels=2, cells=3),
        "hypergradient": FirstOrder(),
        "discretizer": SkipCap(),
        "weight_optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "alpha_optimizer": lambda p: torch.optim.Adam(p, lr=0.1),
        "weight_scheduler": lambda o: CosineAnnealingLR(o, 3),
        "warmup_epochs": 1,
        "output_dir": str(folder),
        "num_classes": 3,
        "image_shape": (3, 8, 8),
        "selection_images": 0,
    }
    return BilevelTask(**{**defaults, **options})


def fit(task: BilevelTask, *callbacks: Callback, path: Path | None = None, **options: Any) -> BilevelTask:
    trainer = quiet_trainer(**{"max_epochs": EPOCHS, "callbacks": [StepSeed(), *callbacks], **options})
    trainer.fit(task, datamodule=FixedHalves(batches=2, dtype=torch.float32), ckpt_path=path)
    return task


class Watch(Callback):
    """Records the search at the start and the end of every epoch."""

    def __init__(self) -> None:
        self.begins: list[dict[str, Any]] = []
        self.ends: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """At the first batch, after everything that happens at the start of an epoch."""
        if batch_idx == 0:
            self.begins.append(self.state(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the scheduler's step."""
        self.ends.append(self.state(trainer, pl_module))

    def state(self, trainer: Trainer, task: Any) -> dict[str, Any]:
        """A copy."""
        weights, alphas = trainer.optimizers
        rates = {part.skip_dropout for part in task.model.supernet.modules() if isinstance(part, FusedEdges)}
        assert len(rates) == 1
        return {
            "cells": (len(task.model.supernet.cells), task.model.space.cells),
            "allowed": {name: mask.clone() for name, mask in task.model.space.allowed.items()},
            "alphas": {name: a.detach().clone() for name, a in task.model.alphas.items()},
            "state": (len(weights.state), len(alphas.state)),
            "owned": {id(p) for g in weights.param_groups for p in g["params"]}
            == {id(p) for p in task.model.supernet.parameters()},
            "lr": weights.param_groups[0]["lr"],
            "dropout": rates.pop(),
        }


def largest(alphas: Tensor, allowed: Tensor, count: int) -> list[set[int]]:
    """By hand: the allowed operations of every edge with the largest alphas."""
    found = []
    for row, on in zip(alphas.tolist(), allowed.tolist(), strict=True):
        columns = sorted((c for c in range(8) if on[c]), key=lambda c: -row[c])
        found.append(set(columns[:count]))
    return found


def test_phases_deepen_the_supernet_and_keep_the_operations_with_the_largest_factors(tmp_path: Path) -> None:
    watch = Watch()
    task = fit(make(tmp_path), PDARTSPhases(**PHASES), watch)
    assert [begin["cells"] for begin in watch.begins] == [(c, c) for c in (3, 4, 5) for _ in range(3)]
    for first, count in ((3, 5), (6, 3)):
        before, after = watch.ends[first - 1], watch.begins[first]
        for name in ("normal", "reduce"):
            expected = largest(before["alphas"][name], before["allowed"][name], count)
            assert [set(row.nonzero().flatten().tolist()) for row in after["allowed"][name]] == expected
            # new alphas, which do not move during the warm-up
            assert before["alphas"][name].abs().max() > 0.05
            assert after["alphas"][name].abs().max() < 0.01
            assert torch.equal(watch.ends[first]["alphas"][name], after["alphas"][name])
            assert not torch.equal(watch.ends[first + 1]["alphas"][name], after["alphas"][name])
    assert [begin["state"] == (0, 0) for begin in watch.begins] == [True, False, False] * 3
    assert all(begin["owned"] for begin in watch.begins)
    rates = [0.05 * (1 + math.cos(math.pi * e / 3)) for e in range(3)] * 3
    assert [begin["lr"] for begin in watch.begins] == pytest.approx(rates)
    shares = [1.0, 1.0, math.exp(-5 * 2 / 5)]  # in the steps 0, 2 and 4 of 6, of which 2 are the warm-up
    dropout = [rate * share for rate in (0.0, 0.4, 0.7) for share in shares]
    assert [begin["dropout"] for begin in watch.begins] == pytest.approx(dropout)
    lasts = [end["dropout"] for end in watch.ends[2::3]]
    assert lasts == pytest.approx([rate * math.exp(-5 * 3 / 5) for rate in (0.0, 0.4, 0.7)])
    assert all(part.skip_dropout == 0 for part in task.model.supernet.modules() if isinstance(part, FusedEdges))
    assert task.found is not None
    task.model.space.check(task.found)
    assert len(task.history) == EPOCHS


@pytest.mark.parametrize("epoch", [1, 2, 4, 8], ids=["first phase", "boundary", "second phase", "end"])
def test_a_resumed_search_goes_on_in_its_phase(epoch: int, tmp_path: Path) -> None:
    ends = []
    for path in (None, tmp_path / "kept" / f"epoch={epoch}.ckpt"):
        keep = ModelCheckpoint(tmp_path / "kept", "{epoch}", save_top_k=-1, enable_version_counter=False)
        task = fit(make(tmp_path), PDARTSPhases(**PHASES), keep, path=path, enable_checkpointing=True)
        ends.append({name: value.clone() for name, value in task.state_dict().items()})
        assert task.model.space.arguments()["cells"] == 5
        found = task.found
        ends[-1]["choices"] = torch.tensor(found.choices)  # type: ignore[union-attr]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


class Fail(Callback):
    """Fails in the second epoch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before its third batch."""
        if (trainer.current_epoch, batch_idx) == (1, 2):
            raise RuntimeError("the machine broke")


def test_a_search_that_broke_within_an_epoch_goes_on_in_its_phase(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    x, y = generator.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8), np.arange(48) % 3
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    phases = {"cells": (3, 4), "kept": (4,), "skip_dropout": (0.3, 0.6)}
    ends = []
    for broken in (False, True):
        for path in (None, tmp_path / "kept" / "last.ckpt")[: 1 + broken]:
            keep = ModelCheckpoint(tmp_path / "kept", "last", enable_version_counter=False)
            callbacks = [StepSeed(), PDARTSPhases(**phases), keep, PreemptionCheckpoint(2)]
            data = HalvesDataModule(ArrayDataModule(str(tmp_path / "images.npz"), batch_size=1, seed=4), batch_size=8)
            schedule = {"weight_scheduler": lambda o: CosineAnnealingLR(o, 1)}
            task = make(tmp_path, warmup_epochs=0, relaxation=GumbelSoftmax(), **schedule)
            fails = broken and path is None
            trainer = quiet_trainer(max_epochs=2, callbacks=callbacks + [Fail()] * fails, enable_checkpointing=True)
            with pytest.raises(RuntimeError, match="broke") if fails else contextlib.nullcontext():
                trainer.fit(task, datamodule=data, ckpt_path=path)
        ends.append(task.state_dict())
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


@pytest.mark.parametrize("side", [8, 16], ids=["dense", "wide"])
def test_skips_lose_a_share_of_their_values_in_training(side: int) -> None:
    edges = FusedEdges([SkipConnection()], torch.ones(2, 1, 1, dtype=torch.bool), 4, 1)
    x, weights = 1 + torch.rand(8, 4, side, side), torch.tensor([0.25, 0.5]).view(2, 1, 1)
    plain = edges([x], weights)
    torch.testing.assert_close(plain, torch.cat([0.25 * x, 0.5 * x], 1))
    edges.skip_dropout = 0.4
    dropped = edges([x], weights)
    lost = dropped == 0
    assert float(lost.double().mean()) == pytest.approx(0.4, abs=0.03)
    torch.testing.assert_close(dropped[~lost], plain[~lost] / 0.6)
    assert torch.equal(lost[:, :4], lost[:, 4:])
    torch.testing.assert_close(edges.eval()([x], weights), plain)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cells": (3, 3, 4)}, r"cells is \[3, 3, 4\]; it must be a list of increasing"),
        ({"cells": ()}, r"cells is \[\]; it must be a list of increasing"),
        ({"kept": (3, 5)}, r"kept is \[3, 5\]; it must be a list of decreasing"),
        ({"kept": (5, 0)}, r"kept is \[5, 0\]; it must be a list of decreasing positive"),
        ({"kept": (5,)}, "kept has 1 values; it must have one less than cells, 2"),
        ({"skip_dropout": (0, 0)}, "skip_dropout has 2 values; it must have one per phase, 3"),
        ({"decay": -1}, "decay is -1; it must be at least 0"),
        ({"skip_dropout": (0, 0, 1)}, "skip_dropout is 1; it must lie in"),
    ],
)
def test_phases_that_make_no_sense_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        PDARTSPhases(**{**PHASES, **options})


@pytest.mark.parametrize("kept", [(8, 3), (5, 2)])
def test_phases_that_could_leave_too_little_are_refused(kept: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must start below their number and end at 3 or more"):
        fit(make(tmp_path), PDARTSPhases(**{**PHASES, "kept": kept}))
    fit(make(tmp_path, discretizer=SoftmaxScore()), PDARTSPhases(**{**PHASES, "kept": (5, 2)}))


def test_what_is_measured_is_measured_without_dropout(tmp_path: Path) -> None:
    values: list[float] = []

    class Measure(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            before = torch.get_rng_state()
            values.extend(pl_module.model.loss_and_accuracy(*fixed_images(pl_module, 8, 0))[0] for _ in range(2))  # type: ignore[arg-type]
            assert torch.equal(torch.get_rng_state(), before)

    task = fit(make(tmp_path), PDARTSPhases(**{**PHASES, "skip_dropout": (0.5, 0.6, 0.7)}), Measure())
    assert values[::2] == values[1::2]
    assert len(set(values)) == EPOCHS
    assert task.found is not None


@pytest.mark.parametrize(
    ("task", "trainer", "reason"),
    [
        ({}, {"max_epochs": 8}, "multiple of the number of phases"),
        ({"warmup_epochs": 3}, {}, "longer than its warm-up"),
        (
            {"weight_scheduler": lambda o: CosineAnnealingLR(o, 9)},
            {},
            "CosineAnnealingLR has T_max 9, but every phase has 3 epochs",
        ),
        (
            {"alpha_scheduler": lambda o: CosineAnnealingWarmRestarts(o, 4)},
            {},
            "CosineAnnealingWarmRestarts has T_0 4, but every phase has 3 epochs",
        ),
        ({"space": DARTSSpace(nodes=2, channels=2, cells=8)}, {}, "as many cells as the first phase, 3"),
        ({"space": DARTSSpace(nodes=2, channels=2, cells=4)}, {}, "Give the space 3 cells"),
        (
            {"space": NASBench201Space(channels=2, cells_per_stage=1), "discretizer": SoftmaxScore()},
            {},
            "in NASBench201Space",
        ),
        ({"checkpoint_cells": True}, {}, "draws anew in every pass"),
        ({"hypergradient": SecondOrder()}, {}, "draws anew in every pass"),
    ],
)
def test_searches_that_cannot_be_divided_are_refused(task: Any, trainer: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        fit(make(tmp_path, **task), PDARTSPhases(**PHASES), **trainer)
