"""Selection by perturbation against loops written out by hand."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_nas.differentiable.discretization.product_score import ProductScore
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.files.artifacts import read_json
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.select import Plan, SelectTask
from tests.helpers import FixedHalves, quiet_trainer

SHAPE = (3, 8, 8)
OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
SPACES: list[Any] = [
    DARTSSpace(nodes=2, operations=OPERATIONS, channels=4, cells=3),
    NASBench201Space(channels=4, cells_per_stage=1),
]


def searched(space: DifferentiableSpace, folder: Path, edge_alphas: bool = False) -> str:
    """The supernet of a search that wandered."""
    torch.manual_seed(3)
    network = space.supernet(num_classes=3, image_shape=SHAPE)
    alphas = {name: torch.randn(space.edges, len(space.operations)).tolist() for name in space.cell_types}
    edges = {name: torch.randn(space.edges).tolist() for name in space.cell_types if edge_alphas}
    info = {"alphas": alphas, "edge_alphas": edges}
    return str(TrainedSupernet(network, space, SHAPE, 3, info).save(folder / "given" / "supernet.safetensors"))


def make(space: DifferentiableSpace, folder: Path, lr: float = 0.05, **options: Any) -> SelectTask:
    defaults: dict[str, Any] = {
        "supernet_path": options.get("supernet_path") or searched(space, folder),
        "epochs_between": 1,
        "space": space,
        "hypergradient": FirstOrder(),
        "discretizer": SoftmaxScore(),
        "weight_optimizer": lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9),
        "alpha_optimizer": lambda p: torch.optim.SGD(p, lr=10 * lr),
        "output_dir": str(folder),
        "num_classes": 3,
        "image_shape": SHAPE,
    }
    return SelectTask(**{**defaults, **options})


def fit(task: SelectTask, *callbacks: Callback, ckpt_path: Path | None = None, **options: Any) -> SelectTask:
    trainer = quiet_trainer(max_epochs=task.plan.length, precision="64-true", callbacks=list(callbacks), **options)
    trainer.fit(task, datamodule=FixedHalves(batches=2), ckpt_path=ckpt_path)
    return task


@pytest.mark.parametrize(("space", "by_loss"), [(SPACES[0], False), (SPACES[0], True), (SPACES[1], False)])
def test_choices_are_those_of_a_loop_over_removals(space: Any, by_loss: bool, tmp_path: Path) -> None:
    """With a learning rate of 0, so that one supernet serves all steps."""
    task = make(space, tmp_path, lr=0.0, by_loss=by_loss, selection_batch_size=7)
    network, data = copy.deepcopy(task.model.supernet).double().train(), FixedHalves(batches=2)
    factors = {name: alpha.detach().double().softmax(1) for name, alpha in task.model.alphas.items()}
    images, labels = data.sets["search"][:]

    def measured(cell: str, changed: Tensor) -> float:
        mixtures = {n: Mixture(changed if n == cell else f, torch.ones(len(f)).double()) for n, f in factors.items()}
        with torch.no_grad():  # two batches of 4, as 7 do not divide 8
            logits = torch.cat([copy.deepcopy(network)(part, mixtures) for part in (images[:4], images[4:])])
        return (
            float(F.cross_entropy(logits, labels)) if by_loss else float((logits.argmax(1) == labels).double().mean())
        )

    def without(cell: str, edge: int, operation: Any) -> float:
        changed = factors[cell].clone()
        changed[edge, operation] = 0
        return measured(cell, changed) * (1 if by_loss else -1)  # the higher, the worse

    expected = []
    for step in range(space.edges):
        for cell in space.cell_types:
            edge = task.plan.edges[cell][step]
            worse = {o: without(cell, edge, o) for o in space.selectable[cell][edge].nonzero().flatten().tolist()}
            best = max(worse, key=lambda o: worse[o])
            factors[cell][edge] = F.one_hot(torch.tensor(best), len(space.operations)).double()
            expected.append((cell, edge, best, list(worse.values())))
    for step in range(len(task.plan.nodes[space.cell_types[0]])):
        for cell in space.cell_types:
            node = space.nodes[task.plan.nodes[cell][step]]
            kept = list(range(node.start, node.stop))
            while len(kept) > 2:
                worse = {edge: without(cell, edge, slice(None)) for edge in kept}
                kept.remove(least := min(worse, key=lambda edge: worse[edge]))
                factors[cell][least] = 0
                expected.append((cell, least, None, list(worse.values())))
    fit(task)
    assert [(d.cell, d.edge, d.operation) for d in task.decisions] == [each[:3] for each in expected]
    for decision, (*_, scores) in zip(task.decisions, expected, strict=True):
        mine = torch.tensor(list(decision.scores.values()), dtype=torch.float64) * (1 if by_loss else -1)
        torch.testing.assert_close(mine, torch.tensor(scores, dtype=torch.float64), rtol=0, atol=1e-9)
    assert any(len(set(scores)) > 1 for *_, scores in expected)
    # the final supernet is the found architecture, and the file says how it came about
    for cell, pairs in space.chosen(task.model.discretize()).items():
        truth = torch.zeros_like(factors[cell])
        truth[tuple(torch.tensor(pairs).t())] = 1
        assert torch.equal(factors[cell], truth)
        assert torch.equal(task.model.mixtures()[cell].operations, truth)
    provenance = read_json(tmp_path / "architecture.json", repair="")["provenance"]
    assert load_architecture(tmp_path / "architecture.json") == task.found == task.model.discretize()
    assert [d["scores"] for d in provenance["decisions"]] == [d.scores for d in task.decisions]
    assert provenance["task"] == "SelectTask"
    # ``none`` counts where it may be chosen
    candidates = [
        name for name, on in zip(space.operations, space.selectable[space.cell_types[0]][0], strict=True) if on
    ]
    assert [list(d.scores) for d in task.decisions[: space.edges]] == [candidates] * space.edges


def test_steps_are_at_the_published_epochs() -> None:
    darts, bench = Plan.of(DARTSSpace(), 5, 0), Plan.of(NASBench201Space(), 5, 0)
    assert darts.length == 81
    assert darts.epochs == list(range(0, 81, 5))
    assert bench.length == 25
    assert bench.epochs == [0, 5, 10, 15, 20, 24]
    for order in darts.edges.values():
        assert sorted(order) == list(range(14)) != order
    for order in darts.nodes.values():
        assert sorted(order) == [1, 2, 3]
    assert bench.nodes == {"cell": []}
    assert darts.edges["normal"] != darts.edges["reduce"]
    assert Plan.of(DARTSSpace(), 5, 0) == darts
    assert Plan.of(DARTSSpace(), 5, 1).edges != darts.edges


@pytest.mark.parametrize("space", SPACES, ids=["darts", "nasbench201"])
def test_steps_come_on_time_and_what_is_decided_stays(space: Any, tmp_path: Path) -> None:
    class Watched(SelectTask):
        def make_step(self, step: int) -> None:
            before = {name: b.clone() for name, b in self.model.supernet.named_buffers()}
            super().make_step(step)
            assert all(torch.equal(b, before[name]) for name, b in self.model.supernet.named_buffers())
            seen.append((step, self.current_epoch))

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(outputs, batch, batch_idx)
            with torch.no_grad():
                mixtures = self.model.mixtures()
            last = {(d.cell, d.edge): d.operation for d in self.decisions}
            for (cell, edge), operation in last.items():
                row = torch.zeros(len(space.operations), dtype=torch.float64)
                if operation is not None:
                    row[operation] = 1
                assert torch.equal(mixtures[cell].operations[edge], row)
            undecided = [i for i in range(space.edges) if all((c, i) not in last for c in space.cell_types)]
            for i in undecided:
                for mixture in mixtures.values():
                    torch.testing.assert_close(mixture.operations[i].sum().item(), 1.0)
                    assert (mixture.operations[i] > 0).all()

    seen: list[tuple[int, int]] = []
    task = make(space, tmp_path, epochs_between=2)
    task.__class__ = Watched
    before = [a.detach().double().clone() for a in task.model.alpha_list]
    fit(task)
    assert seen == list(enumerate(task.plan.epochs))
    assert task.trainer.current_epoch == task.plan.length == 2 * len(seen) - (1 if space.inputs_kept else 2)
    assert all(not torch.equal(a, b) for a, b in zip(task.model.alpha_list, before, strict=True))
    assert task.model.discretize() == task.found


def test_fixed_alphas_leave_all_operations_of_an_edge_alike(tmp_path: Path) -> None:
    task = make(SPACES[0], tmp_path, fixed_alphas=True)
    seen = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            seen.append(pl_module.model.mixtures())

    before = [p.detach().double().clone() for p in task.model.supernet.parameters()]
    fit(task, Look())
    assert not any(a.any() for a in task.model.alpha_list)
    assert all(not torch.equal(p, q) for p, q in zip(task.model.supernet.parameters(), before, strict=True))
    for i, edge in enumerate(task.plan.edges["normal"]):  # two batches an epoch, a step an epoch
        for mixtures in seen[: 2 * i]:
            row = mixtures["normal"].operations[edge].detach()
            torch.testing.assert_close(row, torch.full_like(row, 1 / 4))


def test_an_edge_keeps_its_whole_factor_and_a_forced_one_is_not_measured(tmp_path: Path) -> None:
    forced = torch.ones(5, 4, dtype=torch.bool)
    forced[0] = False
    forced[0, 3] = True
    space = SPACES[0].restrict({"normal": forced})
    supernet = searched(space, tmp_path, edge_alphas=True)
    task = make(space, tmp_path, supernet_path=supernet, normalization=EdgeSoftmax(), discretizer=ProductScore())
    fit(task)
    (decision,) = [d for d in task.decisions if (d.cell, d.edge) == ("normal", 0) and d.operation is not None]
    assert (decision.operation, decision.scores) == (3, {})
    for mixture in task.model.mixtures().values():
        torch.testing.assert_close(mixture.operations.sum(1), mixture.edges)
        assert (mixture.edges > 0).sum() == 4
        assert (mixture.operations > 0).sum() == 4
    assert task.found == task.model.discretize()


@pytest.mark.parametrize("space", SPACES, ids=["darts", "nasbench201"])
def test_a_resumed_selection_ends_like_an_uninterrupted_one(space: Any, tmp_path: Path) -> None:
    whole = make(space, tmp_path / "whole")
    keep = [ModelCheckpoint(tmp_path / name, save_top_k=-1, filename="{epoch}") for name in ("kept", "after")]
    fit(whole, keep[0], enable_checkpointing=True)
    again = make(space, tmp_path / "again").double()  # what is loaded is not rounded
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(1.0)  # all comes from the checkpoint
    fit(again, keep[1], enable_checkpointing=True, ckpt_path=tmp_path / "kept" / "epoch=2.ckpt")
    assert again.decisions == whole.decisions
    assert {d.epoch for d in again.decisions} == set(range(6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.found == whole.found


def test_a_search_hands_its_supernet_on(tmp_path: Path) -> None:
    space = SPACES[0]
    options: dict[str, Any] = {"num_classes": 3, "image_shape": SHAPE, "output_dir": str(tmp_path / "search")}
    for part in ("weight_optimizer", "alpha_optimizer"):
        options[part] = lambda p: torch.optim.SGD(p, lr=0.1)
    search = BilevelTask(space, hypergradient=FirstOrder(), discretizer=SoftmaxScore(), write_supernet=True, **options)
    quiet_trainer(max_epochs=1).fit(search, datamodule=FixedHalves(batches=1, dtype=torch.float32))
    task = make(space, tmp_path, supernet_path=str(search.outputs["supernet"][0]))
    for name, value in search.state_dict().items():
        torch.testing.assert_close(task.state_dict()[name], value, msg=name)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    space = SPACES[0]
    task = make(space, tmp_path, epochs_between=3)
    with pytest.raises(ConfigError, match=r"Set trainer\.max_epochs to 16"):
        quiet_trainer(max_epochs=15).fit(task, datamodule=FixedHalves())
    with pytest.raises(ConfigError, match="HalvesDataModule"):
        quiet_trainer(max_epochs=16).fit(task, train_dataloaders=FixedHalves(dtype=torch.float32).train_dataloader())
    for name, value in (("epochs_between", 0), ("selection_images", -1), ("selection_batch_size", 1)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            make(space, tmp_path, **{name: value})
    with pytest.raises(ArtifactError, match=r"missing\.safetensors"):
        make(space, tmp_path, supernet_path="missing.safetensors")
    with pytest.raises(ArtifactError, match="lacks weights"):
        make(space, tmp_path, supernet_path=searched(SPACES[1], tmp_path))
    network = space.supernet(num_classes=3, image_shape=SHAPE)
    plain = TrainedSupernet(network, space, SHAPE, 3, {}).save(tmp_path / "plain.safetensors")
    with pytest.raises(ArtifactError, match="has no alphas: no search wrote it"):
        make(space, tmp_path, supernet_path=str(plain))
