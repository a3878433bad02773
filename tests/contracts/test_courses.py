"""What changes in the course of a training begins in its first step and arrives in its last one, however long it is."""

import ast
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, IterableDataset

import lightning_nas
from lightning_nas.callbacks.freeze import FreezeArchitecture
from lightning_nas.callbacks.gradual_pruning import GradualPruning
from lightning_nas.callbacks.p_darts import PDARTSPhases
from lightning_nas.differentiable.discretization.sigmoid_score import SigmoidScore
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.perturbation.adversarial import AdversarialPerturbation
from lightning_nas.differentiable.perturbation.base import Perturbation
from lightning_nas.differentiable.perturbation.random_smoothing import RandomSmoothing
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.regularization.beta_decay import BetaDecay
from lightning_nas.differentiable.regularization.expected_cost import ExpectedCost
from lightning_nas.differentiable.regularization.layer_alignment import LayerAlignment
from lightning_nas.differentiable.relaxation.auxiliary_skip import AuxiliarySkip
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.dirichlet import Dirichlet
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax, HardGumbelSoftmax
from lightning_nas.differentiable.relaxation.reinmax import ReinMax
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.base import Task
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.train import TrainTask
from tests.contracts.test_families import members
from tests.genotypes import DARTS_V2
from tests.helpers import FixedHalves, quiet_trainer
from tests.tasks.test_train import Stripes

BATCHES = 7


def search(folder: Path | str = "out", **options: Any) -> BilevelTask:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "space": DARTSSpace(nodes=1, channels=2, cells=3),
        "hypergradient": FirstOrder(),
        "discretizer": SoftmaxScore(),
        "weight_optimizer": lambda p: SGD(p, lr=0.01),
        "alpha_optimizer": lambda p: SGD(p, lr=0.01),
        "num_classes": 3,
        "image_shape": (3, 8, 8),
        "selection_images": 0,
        "output_dir": str(folder),
    }
    return BilevelTask(**{**defaults, **options})


def training(**options: Any) -> TrainTask:
    make = {"channels": 4, "cells": 3, "num_classes": 3, "image_shape": (3, 8, 8), "drop_path": 0.2}
    return TrainTask(DARTS_V2, optimizer=lambda p: SGD(p, lr=0.01), **{**make, **options})


# -- every component, at the first and the last step of trainings that are not run -----------------------------------


def follow_steps(task: Task, epochs: int, value: Callable[[Any], float]) -> list[float]:
    """What a task says in every step of a training."""
    loop = SimpleNamespace(total_batch_idx=-1)
    trainer: Any = SimpleNamespace(
        max_epochs=epochs,
        max_steps=-1,
        num_training_batches=BATCHES,
        accumulate_grad_batches=1,
        callbacks=[],
        fit_loop=loop,
    )
    task.trainer = trainer
    found = []
    for step in range(epochs * BATCHES):
        trainer.global_step = trainer.fit_loop.total_batch_idx = step
        trainer.current_epoch = step // BATCHES
        found.append(value(trainer))
    return found


ALPHAS = {"normal": torch.zeros(2, 8), "reduce": torch.zeros(2, 8)}


def temperature(relaxation: Any) -> Callable[[float], float]:
    return lambda progress: relaxation.drawn(progress, torch.Generator().manual_seed(0)).temperature


def auxiliary(progress: float) -> float:
    """The factor of the auxiliary skip connection."""
    return AuxiliarySkip().drawn(progress, torch.Generator()).beta


def decay(progress: float) -> float:
    """The weight of beta decay: its sum over cell types is 2 log 8 for alphas of 0."""
    return float(BetaDecay(50.0).penalty(ALPHAS, progress)) / (2 * torch.tensor(8.0).log().item())


FOLLOWERS: dict[Any, tuple[Callable[[float], float], float, float]] = {
    GumbelSoftmax: (temperature(GumbelSoftmax()), 1.0, 0.03),
    HardGumbelSoftmax: (temperature(HardGumbelSoftmax()), 10.0, 0.1),
    AuxiliarySkip: (auxiliary, 1.0, 0.0),
    LayerAlignment: (LayerAlignment().factor, 0.0, 0.125),
    BetaDecay: (decay, 0.0, 50.0),
    RandomSmoothing: (RandomSmoothing().radius, 0.03, 0.3),
    AdversarialPerturbation: (AdversarialPerturbation().radius, 0.03, 0.3),
}
"""Components that follow the course of a search: what changes, and its first and last value."""


@pytest.mark.parametrize("epochs", [1, 3, 50])
@pytest.mark.parametrize("member", FOLLOWERS)
def test_components_go_through_their_whole_course(member: Any, epochs: int) -> None:
    value, first, last = FOLLOWERS[member]
    task = search()
    found = follow_steps(task, epochs, lambda trainer: value(task.progress))
    assert (found[0], found[-1]) == pytest.approx((first, last), rel=1e-6)
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([(last - first) / (epochs * BATCHES - 1)] * len(steps), rel=1e-3)


@pytest.mark.parametrize("epochs", [1, 3, 50])
def test_dropped_paths_go_through_their_whole_course(epochs: int) -> None:
    task = training()
    found = follow_steps(task, epochs, lambda trainer: task.progress)
    assert (found[0], found[-1]) == (0.0, 1.0)
    assert all(a < b for a, b in pairwise(found))


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (3, 0), (3, 1), (50, 0), (50, 20)])
def test_the_dropout_of_skips_goes_through_its_course_in_every_phase(epochs: int, warmup: int) -> None:
    rates, cells = (0.5, 0.4, 0.7), (3, 4, 5)
    callback = PDARTSPhases(cells=cells, kept=(5, 3), skip_dropout=rates)
    tasks = [search(space=DARTSSpace(nodes=1, channels=2, cells=each), warmup_epochs=warmup) for each in cells]
    for i, task in enumerate(tasks):
        task.start_epoch = i * epochs

    def rate(trainer: Any) -> float:
        task = tasks[trainer.current_epoch // epochs]
        task.trainer = trainer
        callback.on_train_batch_start(trainer, task, None, trainer.global_step % BATCHES)
        return next(part.skip_dropout for part in task.model.supernet.modules() if hasattr(part, "skip_dropout"))  # type: ignore[return-value]

    found = follow_steps(tasks[0], 3 * epochs, rate)
    length, warm = epochs * BATCHES, warmup * BATCHES
    for i, full in enumerate(rates):
        phase = found[i * length : (i + 1) * length]
        assert phase[0] == full
        assert phase[warm] == full
        end = torch.tensor(-5 * (1 - warm / (length - 1))).exp().item()
        assert phase[-1] == pytest.approx(full * end)


def changes(value: Callable[[float], Tensor]) -> bool:
    return not torch.equal(value(0.0), value(1.0))


DRAW_ONLY = {Dirichlet, ReinMax}
"""Relaxations that draw, in every step alike."""


def test_no_component_with_a_course_is_left_out() -> None:
    found = {
        member
        for member in members(Relaxation)
        if changes(lambda p, m=member: m().drawn(p, torch.Generator().manual_seed(0)).relax(ALPHAS["normal"] + 1.0))
        or type(member()).drawn is not Relaxation.drawn
    }
    found |= set(members(Perturbation))
    found |= {LayerAlignment}  # its term needs a supernet
    found |= {m for m in members(Regularizer) if changes(lambda p, m=m: m().penalty(ALPHAS, p))}
    assert found - DRAW_ONLY == set(FOLLOWERS)
    for member in DRAW_ONLY:
        start, end = (member().drawn(p, torch.Generator().manual_seed(0)).relax(ALPHAS["normal"]) for p in (0.0, 1.0))
        assert torch.equal(start, end)


def test_only_the_progress_of_a_task_is_a_fraction_of_a_training() -> None:
    """Nothing else divides by, or into, a number of epochs or steps of the trainer."""
    counts = {"current_epoch", "max_epochs", "global_step", "max_steps", "num_training_batches"}
    package = Path(str(lightning_nas.__file__)).parent
    found = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                used = counts & {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
                if used:
                    found[path.relative_to(package).as_posix()] = used
    assert found == {"tasks/course.py": {"num_training_batches"}}  # divided by the batches of a step


# -- trainings -------------------------------------------------------------------------------------------------------


class Recorded(Regularizer):
    """Records the progress of every step of the alphas."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def penalty(self, alphas: Any, progress: float) -> Tensor:
        """Nothing."""
        self.seen.append(progress)
        return next(iter(alphas.values())).new_zeros(())


def run(task: BilevelTask, ckpt_path: Path | None = None, **options: Any) -> BilevelTask:
    data = FixedHalves(batches=3, dtype=torch.float32)
    quiet_trainer(**options).fit(task, datamodule=data, ckpt_path=ckpt_path)
    return task


def shares(steps: int) -> list[float]:
    return [step / (steps - 1) for step in range(steps)]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 1}, 3),
        ({"max_epochs": 3}, 9),
        ({"max_epochs": 2, "limit_train_batches": 2}, 4),
        ({"max_epochs": 5, "max_steps": 4}, 4),
        ({"max_epochs": -1, "max_steps": 5}, 5),
        ({"max_epochs": 2, "max_time": {"hours": 1}}, 6),
    ],
    ids=str,
)
def test_a_search_counts_its_steps(options: dict[str, Any], steps: int, tmp_path: Path) -> None:
    recorded = Recorded()
    run(search(tmp_path, regularizers=[recorded]), **options)
    assert recorded.seen == shares(steps)


def test_a_search_of_one_step_is_at_its_end(tmp_path: Path) -> None:
    recorded = Recorded()
    run(search(tmp_path, regularizers=[recorded]), fast_dev_run=1)
    assert recorded.seen == [1.0]


@pytest.mark.parametrize("limit", [{}, {"max_steps": 8}])
def test_a_resumed_search_goes_on_with_its_course(limit: dict[str, int], tmp_path: Path) -> None:
    ends, seen = [], []
    for path in (None, tmp_path / "kept" / "epoch=0.ckpt"):
        keep = ModelCheckpoint(tmp_path / "kept", "{epoch}", save_top_k=-1, enable_version_counter=False)
        task = search(tmp_path, regularizers=[Recorded(), BetaDecay()], relaxation=HardGumbelSoftmax())
        options: dict[str, Any] = {"callbacks": [keep], "enable_checkpointing": True}
        run(task, path, max_epochs=3, **limit, **options)
        seen.append(task.regularizers[0].seen)  # type: ignore[attr-defined]
        ends.append(task.state_dict())
    assert seen == [shares(8 if limit else 9), shares(8 if limit else 9)[3:]]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_phases_are_one_search(tmp_path: Path) -> None:
    recorded = Recorded()
    phases = PDARTSPhases(cells=(3, 4), kept=(5,), skip_dropout=(0.0, 0.0))
    task = search(tmp_path, space=DARTSSpace(nodes=2, channels=2, cells=3), regularizers=[recorded])
    run(task, max_epochs=2, callbacks=[phases])
    assert recorded.seen == shares(6)


def test_the_course_ends_where_the_architecture_is_frozen(tmp_path: Path) -> None:
    recorded = Recorded()
    task = search(tmp_path, space=DARTSSpace(nodes=2, channels=2, cells=3), regularizers=[recorded])
    run(task, max_epochs=4, callbacks=[FreezeArchitecture(epoch=2, images=4)])
    assert recorded.seen == shares(6)


def test_pruning_changes_nothing_about_the_course(tmp_path: Path) -> None:
    recorded = Recorded()
    space = DARTSSpace(nodes=2, channels=2, cells=3, operations=("skip_connect", "sep_conv_3x3"))
    options: dict[str, Any] = {"space": space, "relaxation": Sigmoid(), "discretizer": SigmoidScore()}
    pruning = GradualPruning(threshold=1.0, max_removed=2, images=0)
    task = search(tmp_path, regularizers=[ExpectedCost(), recorded], **options)
    run(task, max_epochs=2, callbacks=[pruning])
    assert len(pruning.series) == 2
    assert recorded.seen == shares(6)


class Drops(Callback):
    """Records the rate of dropped paths of every batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the step."""
        self.seen.append(pl_module.network.drop)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 2}, [0, 1 / 3, 2 / 3, 1]),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, [0, 0, 0.5, 0.5, 1, 1]),
        ({"max_epochs": -1, "max_steps": 3}, [0, 0.5, 1]),
    ],
    ids=str,
)
def test_a_final_training_counts_its_steps(options: dict[str, Any], expected: list[float]) -> None:
    drops = Drops()
    quiet_trainer(limit_val_batches=0, callbacks=[drops], **options).fit(training(), datamodule=Stripes())
    assert drops.seen == pytest.approx([0.2 * each for each in expected])


class Endless(Stripes):
    """Does not know how many batches it has."""

    def train_dataloader(self) -> DataLoader[Any]:  # type: ignore[override]
        """The batches of ``Stripes``, one after the other."""

        class Stream(IterableDataset[Any]):
            def __iter__(stream) -> Any:  # noqa: N805  # of the data set, not of the data module
                return iter(self.loader().dataset)

        return DataLoader(Stream(), batch_size=12)


def test_an_epoch_of_unknown_length_needs_max_steps() -> None:
    with pytest.raises(ConfigError, match=r"epochs whose number of batches is unknown.*Set trainer\.max_steps"):
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(training(), datamodule=Endless())
    drops = Drops()
    trainer = quiet_trainer(max_epochs=9, max_steps=3, limit_val_batches=0, callbacks=[drops])
    trainer.fit(training(), datamodule=Endless())
    assert drops.seen == pytest.approx([0, 0.1, 0.2])


def test_a_one_cycle_schedule_of_a_search_follows_max_steps(tmp_path: Path) -> None:
    def cycle(steps: int) -> dict[str, Any]:
        return {"weight_scheduler": lambda o: OneCycleLR(o, 0.1, total_steps=steps)}

    run(search(tmp_path, **cycle(4)), max_epochs=2, max_steps=4)
    with pytest.raises(ConfigError, match="OneCycleLR has 6 total_steps, but the training takes 4 steps"):
        run(search(tmp_path, **cycle(6)), max_epochs=2, max_steps=4)
