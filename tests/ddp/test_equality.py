"""Two processes on the CPU are equal to each other, and to one process with their global batch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_nas.callbacks.alpha_sync import AlphaSyncCheck
from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.callbacks.run_folder import RunFolder
from lightning_nas.data.class_balanced import ClassBalancedDataModule
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.base import BilevelProblem
from lightning_nas.differentiable.hypergradient.exact_second_order import ExactSecondOrder
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.one_level import OneLevel
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder
from lightning_nas.differentiable.perturbation.adversarial import AdversarialPerturbation
from lightning_nas.differentiable.regularization.beta_decay import BetaDecay
from lightning_nas.differentiable.regularization.layer_alignment import LayerAlignment
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.contrast import AdversarialContrast
from lightning_nas.distill.distribution import DistributionMatching
from lightning_nas.distill.gradient import GradientMatching
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.relation_matching import RelationMatching
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.errors import ConfigError, TrainingError
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.distill import DistillTask
from lightning_nas.tasks.experts import ExpertsTask
from lightning_nas.tasks.shapley import ShapleyTask
from lightning_nas.tasks.supernet import SupernetTask
from lightning_nas.tasks.train import TrainTask
from tests.helpers import quiet_trainer

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(), reason="processes are forked, which must come before CUDA"
)

EPOCHS = 2
Make = Callable[[Path], tuple[LightningModule, LightningDataModule]]


class Frozen(Callback):
    """Batch norm with fixed statistics: those of a batch depend on how it is split."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Lightning puts the task into training mode at the start of every epoch."""
        for part in pl_module.children():
            part.eval()


class Keep(Callback):
    """Saves the final state of every process."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All parameters and buffers."""
        torch.save(pl_module.state_dict(), f"world{trainer.world_size}_rank{trainer.global_rank}.pt")


def images(folder: Path, batch_size: int) -> ArrayDataModule:
    generator = np.random.default_rng(3)
    x = generator.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8)
    y = np.arange(48) % 3
    path = folder / "images.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    return ArrayDataModule(str(path), batch_size=batch_size, seed=4)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)


def search(hypergradient: Any, space: Any, **options: Any) -> BilevelTask:
    return BilevelTask(
        space,
        hypergradient=hypergradient,
        discretizer=SoftmaxScore(),
        weight_optimizer=sgd,
        alpha_optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
        num_classes=3,
        image_shape=(3, 8, 8),
        selection_images=8,
        output_dir="found",
        weight_clip_norm=1.0,
        **options,
    )


def bilevel(hypergradient: Any, **options: Any) -> Any:
    def make(folder: Path, batch_size: int) -> tuple[LightningModule, LightningDataModule]:
        space = DARTSSpace(nodes=2, channels=2, cells=3)
        return search(hypergradient(), space, **options), HalvesDataModule(images(folder, 1), batch_size=batch_size)

    return make


def nasbench201(folder: Path, batch_size: int) -> tuple[LightningModule, LightningDataModule]:
    space = NASBench201Space(channels=2, cells_per_stage=1)
    course: dict[str, Any] = {"regularizers": [BetaDecay(5.0)], "relaxation": GumbelSoftmax()}
    return search(FirstOrder(), space, **course), HalvesDataModule(images(folder, 1), batch_size=batch_size)


def shapley(folder: Path, batch_size: int) -> tuple[LightningModule, LightningDataModule]:
    task = ShapleyTask(
        space=NASBench201Space(channels=2, cells_per_stage=1),
        discretizer=SoftmaxScore(),
        weight_optimizer=sgd,
        alpha_optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        num_classes=3,
        image_shape=(3, 8, 8),
        output_dir="found",
        warmup_epochs=0,
        samples=1,
        measured_images=12,
        truncation=0.9,
    )
    return task, HalvesDataModule(images(folder, 1), batch_size=batch_size)


def training(folder: Path, batch_size: int) -> tuple[LightningModule, LightningDataModule]:
    path = DARTSSpace(nodes=2).sample(torch.Generator().manual_seed(1)).save(folder / "architecture.json")
    task = TrainTask(
        str(path), optimizer=sgd, channels=2, cells=3, label_smoothing=0.1, num_classes=3, image_shape=(3, 8, 8)
    )
    return task, images(folder, batch_size)


def distillation(scheme: Any, matcher: Any, *regularizers: Any) -> Any:
    def make(folder: Path, batch_size: int) -> tuple[LightningModule, LightningDataModule]:
        parts = [part(width=4, depth=2) for part in regularizers]
        task = DistillTask(
            scheme(2), matcher=matcher(width=4, depth=2), optimizer=sgd, regularizers=parts, output_dir="found"
        )
        return task, ClassBalancedDataModule(images(folder, 1), images_per_class=batch_size // 2, steps_per_epoch=3)

    return make


def experts(folder: Path, batch_size: int) -> tuple[LightningModule, LightningDataModule]:
    sizes: dict[str, Any] = {"width": 4, "depth": 2, "num_classes": 3, "image_shape": (3, 8, 8)}
    task = ExpertsTask(sgd, experts=2, epochs_per_expert=1, output_dir="found", **sizes)
    return task, images(folder, batch_size)


def supernet(folder: Path, batch_size: int) -> tuple[LightningModule, LightningDataModule]:
    space = NASBench201Space(channels=2, cells_per_stage=1)
    sizes: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 8, 8)}
    return SupernetTask(space, optimizer=sgd, output_dir="found", **sizes), images(folder, batch_size)


MAKERS = {
    "supernet": supernet,
    "first order": bilevel(FirstOrder),
    "second order": bilevel(SecondOrder),
    "exact second order": bilevel(ExactSecondOrder),
    "one level": bilevel(OneLevel),
    "layer alignment": bilevel(FirstOrder, regularizers=[LayerAlignment(5.0)]),
    "perturbed": bilevel(FirstOrder, perturbation=AdversarialPerturbation(0.3, steps=2)),
    "checkpointed cells": bilevel(FirstOrder, checkpoint_cells=True),
    "NAS-Bench-201": nasbench201,
    "Shapley values": shapley,
    "training": training,
    "distillation": distillation(PlainImages, DistributionMatching),
    "scheme 1": distillation(HallucinatedBases, DistributionMatching, AdversarialContrast, RelationMatching),
    "scheme 2": distillation(
        lambda count: RelationMappings(4 * count, mappings=2 * count), DistributionMatching, RelationMatching
    ),
    "gradient matching": distillation(PlainImages, GradientMatching),
    "experts": experts,
}


def fit(make: Any, folder: Path, world: int, callbacks: list[Callback], ckpt_path: Path | None = None) -> None:
    torch.manual_seed(11)
    task, data = make(folder, 4 if world == 2 else 8)
    options: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2} if world == 2 else {}
    try:
        keep = any(isinstance(c, ModelCheckpoint) for c in callbacks)
        options |= {"precision": "64-true", "callbacks": callbacks, "enable_checkpointing": keep}
        trainer = quiet_trainer(max_epochs=EPOCHS, **options)
        trainer.fit(task, datamodule=data, ckpt_path=ckpt_path)
    finally:
        os.environ.pop("MASTER_PORT", None)  # Lightning leaves it behind


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n].double() - b[n].double()).abs().max()) for n in a if a[n].numel())


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_two_processes_are_one_with_their_global_batch(name: str, tmp_path: Path) -> None:
    for world in (1, 2):
        fit(MAKERS[name], tmp_path, world, [Frozen(), Keep()])
    one, first, second = (torch.load(f"world{w}_rank{r}.pt") for w, r in ((1, 0), (2, 0), (2, 1)))
    torch.manual_seed(11)
    start = MAKERS[name](tmp_path, 4)[0].state_dict()
    assert difference(first, second) == 0
    assert difference(one, first) < 1e-9
    if start.keys() == one.keys():  # the parameters of a scheme are created during fit
        assert difference(one, {n: t.double() for n, t in start.items()}) > 1e-3, "nothing was trained"


@pytest.mark.parametrize("name", ["first order", "training"])
def test_with_batch_norm_on_weights_are_equal_on_both_processes(name: str, tmp_path: Path) -> None:
    """Every process normalises by its own part of the batch; running statistics are those of each process."""
    fit(MAKERS[name], tmp_path, 2, [Keep()])
    first, second = (torch.load(f"world2_rank{r}.pt") for r in (0, 1))
    trained = dict(MAKERS[name](tmp_path, 4)[0].named_parameters())
    assert difference({n: first[n] for n in trained}, {n: second[n] for n in trained}) == 0


class Unaveraged(FirstOrder):
    """A hypergradient that forgets the other processes."""

    def gradient(self, problem: BilevelProblem, train: Any, search: Any) -> tuple[torch.Tensor, ...]:
        """The gradient of this process alone."""
        return problem.gradients(problem.search_loss(search, None), problem.alphas)


def test_a_search_says_that_it_synchronises_no_batch_norm(tmp_path: Path) -> None:
    task, data = MAKERS["first order"](tmp_path, 4)
    task.model.supernet = torch.nn.SyncBatchNorm.convert_sync_batchnorm(task.model.supernet)  # as Lightning does
    with pytest.raises(ConfigError, match=r"sync_batchnorm is true, but the supernet"):
        quiet_trainer(max_epochs=1).fit(task, datamodule=data)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="SyncBatchNorm needs two GPUs: it has no CPU path")
def test_a_training_can_synchronise_batch_norm(tmp_path: Path) -> None:
    """Two processes are then equal to one with their global batch, although statistics move."""
    for world, options in ((1, {"devices": 1}), (2, {"devices": 2, "strategy": "ddp_spawn", "sync_batchnorm": True})):
        torch.manual_seed(11)
        task, data = training(tmp_path, 8 // world)
        quiet_trainer(max_epochs=EPOCHS, accelerator="gpu", callbacks=[Keep()], **options).fit(task, datamodule=data)
    one, first = (torch.load(f"world{w}_rank0.pt", map_location="cpu") for w in (1, 2))
    assert difference(one, first) < 1e-4


def test_alphas_that_drift_apart_stop_the_search(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="The processes search apart") as caught:
        fit(bilevel(Unaveraged), tmp_path, 2, [AlphaSyncCheck(every_n_batches=2)])
    assert TrainingError.__name__ in str(caught.value) or isinstance(caught.value, TrainingError)


def test_equal_alphas_pass_the_guard(tmp_path: Path) -> None:
    fit(bilevel(FirstOrder), tmp_path, 2, [AlphaSyncCheck(every_n_batches=1)])


class Fail(Callback):
    """Fails in the second epoch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before its third batch."""
        if (trainer.current_epoch, batch_idx) == (1, 2):
            raise RuntimeError("the machine broke")


class Means(Callback):
    """Saves the logged means of the last epoch."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Those of the main process, which are those of all."""
        if trainer.is_global_zero:
            torch.save({name: value.clone() for name, value in trainer.callback_metrics.items()}, "means.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first order", "training", "distillation"])
def test_two_processes_go_on_within_an_epoch(name: str, tmp_path: Path) -> None:
    ends = []
    for broken in (False, True):
        keep = [
            ModelCheckpoint(tmp_path / "kept", "last", enable_version_counter=False),
            PreemptionCheckpoint(2),
            Means(),
        ]
        if broken:
            with pytest.raises(Exception, match="the machine broke"):
                fit(MAKERS[name], tmp_path, 2, [*keep, Keep(), Fail()])
        fit(MAKERS[name], tmp_path, 2, [*keep, Keep()], tmp_path / "kept" / "last.ckpt" if broken else None)
        ends.append({**torch.load("world2_rank0.pt"), **torch.load("means.pt")})
    # float64 weights are rounded on their way through a checkpoint, because Lightning converts them after loading
    assert difference(*ends) < 1e-5


@pytest.mark.parametrize("name", ["first order", "distillation"])
def test_without_a_folder_of_their_own_artifacts_are_with_the_logs(name: str, tmp_path: Path) -> None:
    """The main process asks its logger for the folder and tells the others."""
    task, data = MAKERS[name](tmp_path, 4)
    task.output_dir = None
    options: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2, "callbacks": [RunFolder()]}
    try:
        quiet_trainer(max_epochs=1, logger=CSVLogger(tmp_path), **options).fit(task, datamodule=data)
    finally:
        os.environ.pop("MASTER_PORT", None)
    kind = "proxy" if name == "distillation" else "architecture"
    assert [p.parent.name for p in tmp_path.rglob(f"{kind}.json")] == ["version_0"]


class Decided(Callback):
    """Saves the architecture that every process ends with."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The found choices."""
        Path(f"rank{trainer.global_rank}.txt").write_text(str(pl_module.found.choices))  # type: ignore[union-attr]


class Tampered(Callback):
    """Gives every process different alphas just before the architecture is read."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Other alphas, by rank."""
        torch.manual_seed(trainer.global_rank)
        for alphas in pl_module.model.alphas.values():  # type: ignore[union-attr,operator]
            alphas.data = torch.randn_like(alphas)


def test_the_main_process_decides_for_all(tmp_path: Path) -> None:
    fit(bilevel(FirstOrder), tmp_path, 2, [Tampered(), Decided()])

    (written,) = tmp_path.glob("found/architecture.json")
    found = [Path(f"rank{r}.txt").read_text() for r in (0, 1)]
    assert found == [str(load_architecture(written).choices)] * 2
