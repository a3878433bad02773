"""OLES against its formula, on the weights of every operation of every cell."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_nas.callbacks import FreezeArchitecture, GradualPruning, OperationStopping, PDARTSPhases
from lightning_nas.callbacks.operation_stopping import operation_places
from lightning_nas.differentiable import FirstOrder, HardGumbelSoftmax, OneLevel, SoftmaxScore
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.per_edge import PerEdgeCell
from lightning_nas.tasks.bilevel import BilevelTask
from tests.helpers import FixedHalves, quiet_trainer

SPACES = {
    "darts": DARTSSpace(nodes=2, channels=4, cells=3),
    "nasbench201": NASBench201Space(channels=4, cells_per_stage=1),
}


def make(folder: Path, space: Any = SPACES["nasbench201"], **options: Any) -> BilevelTask:
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "space": space,
        "hypergradient": FirstOrder(),
        "discretizer": SoftmaxScore(),
        "weight_optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        "alpha_optimizer": lambda p: torch.optim.SGD(p, lr=0.0),
        "output_dir": str(folder),
        "num_classes": 3,
        "image_shape": (3, 8, 8),
        "selection_images": 0,
    }
    return BilevelTask(**{**defaults, **options})


def fit(task: BilevelTask, *callbacks: Any, path: Path | None = None, batches: int = 3, **options: Any) -> BilevelTask:
    options = {"max_epochs": 1, "precision": "64-true", **options}
    dtype = torch.float64 if options["precision"] == "64-true" else torch.float32
    data, trainer = FixedHalves(batches=batches, dtype=dtype), quiet_trainer(callbacks=list(callbacks), **options)
    trainer.fit(task, datamodule=data, ckpt_path=path)
    return task


@pytest.mark.parametrize("space", SPACES)
def test_every_weight_belongs_to_the_operation_that_it_has_in_the_plain_supernet(space: str) -> None:
    sizes: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 8, 8)}
    owners, places = operation_places(SPACES[space].supernet(**sizes))
    counts = torch.zeros(len(owners) + 1)
    for place in places.values():
        counts += torch.bincount(place.flatten(), minlength=len(owners) + 1)
    found = {owner: int(count) for owner, count in zip(owners, counts.tolist(), strict=False)}
    truth: Counter[Any] = Counter()
    for i, cell in enumerate(SPACES[space].per_edge_supernet(**sizes).cells):
        if isinstance(cell, PerEdgeCell):
            for edge, modules in enumerate(cell.edges):
                for column, module in modules.named_children():
                    truth[i, cell.cell_type, edge, int(column)] += sum(p.numel() for p in module.parameters())
    assert found == {owner: count for owner, count in truth.items() if count}


def gradient(task: BilevelTask, half: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Of the cross-entropy of one half, in training mode."""
    model = task.model.double().train()
    loss = F.cross_entropy(model.supernet(half[0], model.mixtures()), half[1])
    return dict(zip(model.weights, torch.autograd.grad(loss, tuple(model.weights.values())), strict=True))


@pytest.mark.parametrize("space", SPACES)
def test_operations_stop_whose_gradients_on_the_halves_part(space: str, tmp_path: Path) -> None:
    batch = FixedHalves(batches=1).batches()[0]
    gradients = [gradient(make(tmp_path, SPACES[space]), batch[half]) for half in ("search", "train")]
    owners, places = operation_places(make(tmp_path, SPACES[space]).model.supernet)
    cosines = []
    for number in range(len(owners)):
        search, train = (torch.cat([g[n][p == number] for n, p in places.items()]) for g in gradients)
        cosines.append(float(F.cosine_similarity(search, train, dim=0)))
    threshold = sorted(cosines)[len(cosines) // 2]
    threshold += 1e-4 * abs(threshold)
    callback = OperationStopping(max(threshold, -1), steps=1)
    fit(make(tmp_path, SPACES[space]), callback, batches=1)
    assert callback.stopped[:-1].tolist() == [c < threshold for c in cosines]
    assert 0 < callback.stopped[:-1].float().mean() < 1


class Watch(OperationStopping):
    """Copies the weights after every step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Copy."""
        super().on_train_batch_end(trainer, pl_module, *args)
        self.seen.append({name: w.detach().clone() for name, w in pl_module.model.weights.items()})


def test_stopped_weights_stay_and_all_others_move(tmp_path: Path) -> None:
    watch = Watch(1.0, steps=2)  # cosines are below 1: all stop at the second step
    task = fit(make(tmp_path), watch, batches=4)
    before, *_, after = watch.seen
    for name, weight in after.items():
        place = watch.places.get(name)
        operation = torch.zeros_like(weight, dtype=torch.bool) if place is None else place < len(watch.owners)
        assert torch.equal(weight[operation], before[name][operation])
        assert (weight[~operation] != before[name][~operation]).any() or operation.all()
    assert task.trainer.callback_metrics["oles/stopped"] == 1
    never = Watch(-1.0, steps=1)
    fit(make(tmp_path), never)
    plain = fit(make(tmp_path))
    assert all(torch.equal(w, never.seen[-1][name]) for name, w in plain.model.weights.items())


def test_a_resumed_search_has_stopped_the_same(tmp_path: Path) -> None:
    ends = []
    for path in (None, tmp_path / "epoch=0.ckpt"):
        keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, enable_version_counter=False)
        callback = OperationStopping(0.0, steps=2)
        options: dict[str, Any] = {"max_epochs": 2, "precision": "32-true", "enable_checkpointing": True}
        task = fit(make(tmp_path), callback, keep, path=path, **options)
        assert callback.stopped.any()
        ends.append({**task.state_dict(), "stopped": callback.stopped})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


class Narrow(Callback):
    """Restricts the supernet before the first step."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Build the supernet again."""
        pl_module.model.restrict(pl_module.model.space.allowed)


def test_the_supernet_may_be_changed_only_after_the_training(tmp_path: Path) -> None:
    task = make(tmp_path)
    with pytest.raises(ConfigError, match="another callback replaces them"):
        fit(task, OperationStopping(), Narrow())
    fit(task, Narrow(), batches=1)
    fit(task, OperationStopping(), batches=1)
    task.model.restrict(task.model.space.allowed)


class Save(Callback):
    """Saves after every step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Before the weights are put back."""
        trainer.save_checkpoint(self.folder / f"{batch_idx}.ckpt")


def test_a_checkpoint_of_a_callback_before_it_has_the_weights_that_stay(tmp_path: Path) -> None:
    watch = Watch(0.0, steps=2)
    fit(make(tmp_path), Save(tmp_path), watch, batches=4)
    assert watch.stopped.any()
    assert not watch.stopped[:-1].all()
    for step, weights in enumerate(watch.seen):
        state = torch.load(tmp_path / f"{step}.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(weight, state[f"model.supernet.{name}"]) for name, weight in weights.items())


def test_a_step_without_any_gradient_of_an_operation_is_left_out(tmp_path: Path) -> None:
    """The draw of every edge is an operation without weights."""
    task = make(tmp_path, relaxation=HardGumbelSoftmax())
    with torch.no_grad():
        task.model.alphas["cell"][:, task.model.space.operations.index("skip_connect")] = 1e3
    callback = OperationStopping(1.0, steps=1)
    fit(task, callback)
    assert not callback.stopped.any()
    assert callback.search_gradients == {}


def test_what_does_not_go_with_it_is_refused(tmp_path: Path) -> None:
    changing = (FreezeArchitecture(epoch=1), PDARTSPhases(), GradualPruning())
    for other in changing:
        with pytest.raises(ConfigError, match=f"but {type(other).__name__} replaces them"):
            OperationStopping().on_fit_start(quiet_trainer(callbacks=[other], max_epochs=1), make(tmp_path))
    with pytest.raises(ConfigError, match="with OneLevel the weights follow both halves"):
        fit(make(tmp_path, hypergradient=OneLevel()), OperationStopping())
    bare = NASBench201Space(operations=("none", "skip_connect"), channels=4, cells_per_stage=1)
    with pytest.raises(ConfigError, match="none of .'none', 'skip_connect'. has any"):
        fit(make(tmp_path, bare), OperationStopping())
    with pytest.raises(ConfigError, match="threshold is 2"):
        OperationStopping(2.0)
    with pytest.raises(ConfigError, match="steps is 0"):
        OperationStopping(steps=0)
