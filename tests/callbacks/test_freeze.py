"""Single-stage search: the architecture is frozen, and its weights are trained further."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.architecture import Architecture
from lightning_nas.callbacks.freeze import FreezeArchitecture
from lightning_nas.callbacks.health import HealthMonitor
from lightning_nas.callbacks.p_darts import PDARTSPhases
from lightning_nas.differentiable.discretization.product_score import ProductScore
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.relaxation.gumbel_softmax import HardGumbelSoftmax
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.metrics.cost import parameters
from lightning_nas.spaces.convert import to_per_edge
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.tasks.bilevel import BilevelTask
from tests.callbacks.test_p_darts import PHASES, fit, make
from tests.helpers import StopAfterFirst, quiet_trainer

SPACES: dict[str, Any] = {
    "darts": lambda: DARTSSpace(nodes=2, channels=2, cells=3),
    "nasbench201": lambda: NASBench201Space(channels=2, cells_per_stage=1),
}


def search(folder: Path, name: str, **options: Any) -> BilevelTask:
    defaults = {"space": SPACES[name](), "discretizer": SoftmaxScore(), "write_supernet": True, "warmup_epochs": 0}
    return make(folder, **{**defaults, **options})


class Alphas(Callback):
    """Records the alphas and the architecture at the start of every epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, Any], Architecture]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        alphas = {name: value.detach().clone() for name, value in pl_module.model.alphas.items()}
        self.seen.append((alphas, pl_module.model.discretize()))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    "options",
    [{}, {"relaxation": Sigmoid()}, {"normalization": EdgeSoftmax(), "discretizer": ProductScore()}],
    ids=["softmax", "sigmoid", "edges"],
)
def test_the_frozen_supernet_is_one_network(tmp_path: Path, space: str, options: dict[str, Any]) -> None:
    task, watch = search(tmp_path, space, **options), Alphas()
    whole = parameters(task.model.supernet)
    fit(task, FreezeArchitecture(epoch=2, images=8), watch, max_epochs=5)
    assert task.found is not None
    alphas = [each for each, _ in watch.seen]
    assert any(not torch.equal(alphas[0][n], alphas[2][n]) for n in alphas[0])
    assert all(
        torch.equal(alphas[2][n], alphas[4][n]) and torch.equal(alphas[4][n], task.model.alphas[n]) for n in alphas[2]
    )
    assert {found.choices for _, found in watch.seen[2:]} == {task.found.choices}
    # the supernet computes the architecture with factors of one
    for name, mixture in task.model.space.to_path(task.found).items():
        assert torch.equal(task.model.mixtures()[name].operations, mixture.operations)
        assert torch.equal(task.model.mixtures()[name].edges, mixture.edges)
    assert parameters(task.model.supernet) < whole
    measured = json.loads((tmp_path / "gap.json").read_text())
    assert {name: set(measured[name]) for name in ("mixtures", "frozen", "trained")} == {
        name: {"loss", "accuracy"} for name in ("mixtures", "frozen", "trained")
    }
    assert measured["mixtures"]["loss"] != measured["frozen"]["loss"] != measured["trained"]["loss"]
    assert task.outputs["gap"] == [tmp_path / "gap.json"]
    written = TrainedSupernet.load(tmp_path / "supernet.safetensors").network.state_dict()
    assert written.keys() == task.model.supernet.state_dict().keys()
    assert all(torch.equal(value, written[name]) for name, value in task.model.supernet.state_dict().items())


def network_of(task: BilevelTask) -> Any:
    """The ordinary network of the found architecture, one module per operation, with the supernet's weights."""
    assert task.found is not None
    network = task.model.space.network(task.found, num_classes=3, image_shape=(3, 8, 8), channels=2, cells=1)
    state = {}
    for name, value in to_per_edge(task.model.supernet).items():
        edge = re.match(r"(cells\.\d+)\.edges\.(\d)<-(\d)\.\d\.op\.(.*)", name)
        if edge is None:
            state[name] = value
        else:
            cell, node, source = edge[1], int(edge[2]), int(edge[3])
            names = [task.model.space.operations[o] for o in task.found.choices][node * (node - 1) // 2 :][:source]
            state[f"{cell}.nodes.{node - 1}.{sum(n != 'none' for n in names)}.op.{edge[4]}"] = value
    left = network.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    # the supernet's batch norms of operations scale by one and add nothing, as new ones do
    assert all(re.search(r"nodes\..*\.2\.(weight|bias)$", key) for key in left.missing_keys)
    return network


def test_what_is_validated_is_the_ordinary_network(tmp_path: Path) -> None:
    space = NASBench201Space(channels=2, cells_per_stage=1, operations=("nor_conv_3x3", "skip_connect", "nor_conv_1x1"))
    task = search(tmp_path, "nasbench201", space=space, relaxation=Sigmoid())
    with torch.no_grad():
        for edge in range(6):
            task.model.alphas["cell"][edge, edge % 3] = 2.0
    fit(task, FreezeArchitecture(epoch=1, images=8), max_epochs=3)
    network = network_of(task)
    x, y = torch.randn(20, 3, 8, 8), torch.arange(20) % 3
    logits = [each.train()(x) for each in (task, network)]  # with batch statistics, which move the running ones of both
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    (measured,) = quiet_trainer().validate(task, DataLoader(TensorDataset(x, y), batch_size=20), verbose=False)
    with torch.no_grad():
        expected = network.eval()(x)
    assert measured["val/loss"] == pytest.approx(float(cross_entropy(expected, y)), rel=1e-4)
    assert measured["val/accuracy"] == pytest.approx(float((expected.argmax(1) == y).float().mean()))


def test_weights_go_on_as_they_were(tmp_path: Path) -> None:
    """Operations that stay keep the weights of the supernet bit by bit."""
    task = search(tmp_path, "nasbench201")
    states: list[dict[str, Any]] = []

    class Around(FreezeArchitecture):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            states.append(to_per_edge(pl_module.model.supernet))
            super().on_train_epoch_start(trainer, pl_module)
            states.append(to_per_edge(pl_module.model.supernet))

    fit(task, Around(epoch=1, images=8), max_epochs=2)
    before, after = states[2:4]
    assert len(after) < len(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    owners = {task.model.supernet.owner(name) for name in after} - {None}
    assert task.found is not None
    kept = {("cell", edge, o) for edge, o in enumerate(task.found.choices)}
    assert owners <= kept


def test_a_resumed_run_equals_one_without_a_stop(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", "darts")

    def saved() -> ModelCheckpoint:
        return ModelCheckpoint(dirpath=tmp_path / "saved", save_top_k=-1, filename="{epoch}")

    fit(whole, FreezeArchitecture(epoch=2, images=8), saved(), max_epochs=5, enable_checkpointing=True)
    for epoch in (0, 1, 3):
        again = search(tmp_path / str(epoch), "darts")
        path = tmp_path / "saved" / f"epoch={epoch}.ckpt"
        fit(again, FreezeArchitecture(epoch=2, images=8), saved(), max_epochs=5, path=path, enable_checkpointing=True)
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), (epoch, name)
        read = [json.loads((tmp_path / at / "gap.json").read_text()) for at in ("whole", str(epoch))]
        assert read[0] == read[1]


def test_what_cannot_be_frozen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epoch is 0"):
        FreezeArchitecture(epoch=0)
    with pytest.raises(ConfigError, match="epoch is 3, but the last of 3 epochs is epoch 2"):
        fit(search(tmp_path, "nasbench201"), FreezeArchitecture(epoch=3), max_epochs=3)
    with pytest.raises(ConfigError, match="do not move in the first 2 epochs"):
        fit(search(tmp_path, "nasbench201", warmup_epochs=2), FreezeArchitecture(epoch=2), max_epochs=3)
    phases = PDARTSPhases(**{**PHASES, "skip_dropout": (0.0, 0.0, 0.0)})
    with pytest.raises(ConfigError, match="frozen, so the search cannot start again"):
        fit(search(tmp_path, "darts"), phases, FreezeArchitecture(epoch=4, images=8))


def test_a_search_that_was_stopped_before_has_no_gap(tmp_path: Path) -> None:
    task = fit(search(tmp_path, "nasbench201"), FreezeArchitecture(epoch=2, images=8), StopAfterFirst(), max_epochs=3)
    assert task.found is not None
    assert not (tmp_path / "gap.json").exists()
    assert "gap" not in task.outputs


def test_the_health_of_a_frozen_search_is_measured(tmp_path: Path) -> None:
    health = HealthMonitor(images=8)
    fit(search(tmp_path, "darts"), FreezeArchitecture(epoch=1, images=8), health, max_epochs=3)
    assert health.eigenvalues[0] != 0.0
    assert health.eigenvalues[1:] == [0.0, 0.0]


def test_a_frozen_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
    fit(search(tmp_path, "darts"), FreezeArchitecture(epoch=1, images=8), keep, max_epochs=2, enable_checkpointing=True)
    other = search(tmp_path, "darts", space=DARTSSpace(nodes=3, channels=2, cells=3))
    with pytest.raises(CheckpointError, match="to another network"):
        fit(other, FreezeArchitecture(epoch=1, images=8), max_epochs=3, path=tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_operations_that_were_never_drawn_have_no_state_to_move(tmp_path: Path, optimizer: Any, seed: int) -> None:
    task = search(tmp_path, "darts", relaxation=HardGumbelSoftmax(), weight_optimizer=optimizer, seed=seed)
    fit(task, FreezeArchitecture(epoch=1, images=8), max_epochs=2)
    states = task.trainer.optimizers[0].state
    assert task.model.frozen
    assert states
    assert all(torch.as_tensor(value).isfinite().all() for state in states.values() for value in state.values())


def test_optimizers_whose_state_cannot_be_moved_are_refused(tmp_path: Path) -> None:
    def grouped(parameters: Any) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD([{"params": [first]}, {"params": rest}], lr=0.1)

    for optimizer, reason in (
        (torch.optim.Adafactor, "Adafactor keeps .* in other shapes"),
        (grouped, "2 parameter groups"),
    ):
        task = search(tmp_path, "darts", weight_optimizer=optimizer)
        with pytest.raises(ConfigError, match=reason):
            fit(task, FreezeArchitecture(epoch=1, images=8), max_epochs=2)
