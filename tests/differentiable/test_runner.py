"""How a search runs its supernet changes its speed and memory, not its result."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lightning_nas.differentiable.hypergradient.exact_second_order import ExactSecondOrder
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax
from lightning_nas.differentiable.regularization.beta_decay import BetaDecay
from lightning_nas.differentiable.regularization.edge_variance import EdgeVariance
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.helpers import FixedHalves, quiet_trainer
from tests.tasks.test_bilevel import fit, make

SPACES = [DARTSSpace(nodes=2, channels=4, cells=3), NASBench201Space(channels=4, cells_per_stage=1)]


def searched(tmp_path: Path, **options: Any) -> dict[str, Tensor]:
    task = fit(make(tmp_path, **options), FixedHalves(), epochs=2)
    return {name: value.clone() for name, value in task.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("space", SPACES, ids=["darts", "nasbench201"])
@pytest.mark.parametrize("options", [{"channels_last": False}, {"checkpoint_cells": True}])
def test_settings_change_no_result(tmp_path: Path, space: Any, options: dict[str, Any]) -> None:
    assert_same(searched(tmp_path, space=space, **options), searched(tmp_path, space=space))


@pytest.mark.parametrize("space", SPACES, ids=["darts", "nasbench201"])
def test_checkpointed_cells_keep_less(tmp_path: Path, space: Any) -> None:
    kept = {}
    for checkpoint_cells in (False, True):
        task = make(tmp_path, checkpoint_cells=checkpoint_cells, space=space)
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            task(torch.randn(4, 3, 8, 8))
        kept[checkpoint_cells] = total
    assert kept[True] < kept[False] / 2


class Recorder:
    """Stands in for CUDA's recording: runs the network as recording does, and replays by calling it."""

    def __init__(self) -> None:
        self.recorded: list[tuple[bool, bool]] = []

    def __call__(self, network: nn.Module, samples: tuple[Tensor, ...]) -> nn.Module:
        for _ in range(3):
            network(*samples)
        weights = any(p.requires_grad for p in network.parameters())
        alphas = any(t.requires_grad for t in samples)
        self.recorded.append((weights, alphas))

        class Replay(nn.Module):
            def forward(self, *inputs: Tensor) -> Any:
                # a graph takes the shapes and the gradients that it was recorded for
                assert [t.shape for t in inputs] == [t.shape for t in samples]
                assert [t.requires_grad for t in inputs] == [t.requires_grad for t in samples]
                assert any(p.requires_grad for p in network.parameters()) == weights
                return network(*inputs)

        return Replay()


def test_graphs_are_recorded_once_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the replay itself, which needs a GPU: two passes, statistics untouched by recording, odd batches."""
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
    monkeypatch.setattr("lightning_nas.differentiable.runner.SupernetRunner.check", lambda *_: None)
    plain = searched(tmp_path)
    assert_same(searched(tmp_path, compile="graphs"), plain)
    assert recorder.recorded == [(False, True), (True, False)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_on_a_gpu(tmp_path: Path) -> None:
    data = FixedHalves(batches=2, dtype=torch.float32)
    batch = {n: tuple(t.cuda() for t in pair) for n, pair in data.batches()[0].items()}
    results = []
    for compile in (False, "graphs"):
        task = make(tmp_path, compile=compile).cuda()
        logits = task.model.runner(batch["train"][0], task.model.mixtures(), frozen=True)
        results.append([logits, *torch.autograd.grad(logits.square().mean(), task.model.alpha_list)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_graphs_without_a_gpu_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="graphs was asked for on cpu"):
        fit(make(tmp_path, compile="graphs"), FixedHalves())


@pytest.mark.parametrize("options", [{"checkpoint_cells": True}, {"compile": True}])
def test_second_order_needs_the_plain_forward(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="weights that are not its own"):
        make(tmp_path, hypergradient=ExactSecondOrder(), **options)


def test_compiled_alpha_pass_has_no_weight_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program made in advance computes all gradients that were asked for when it was made: so none is."""
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: asked.append(self))
    task = make(tmp_path, compile=True)
    assert asked == list(task.model.supernet.cells)
    fit(task, FixedHalves(batches=1))  # the compiler itself takes minutes: docs/results.md
    images = FixedHalves().batches()[0]["search"][0].float()
    logits = task.float().model.runner(images, task.model.mixtures(), frozen=True)
    with pytest.raises(RuntimeError, match="does not require grad|not have been used"):
        torch.autograd.grad(logits.sum(), list(task.model.supernet.parameters()))
    assert all(p.requires_grad for p in task.model.supernet.parameters())


def masks(space: Any, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.rand(mask.shape, generator=generator) < 0.5 for name, mask in space.allowed.items()}
    for mask in found.values():
        mask[:, 3] = True
    return found


class Prune(Callback):
    """Takes operations away after the first epoch."""

    def __init__(self, allowed: dict[str, Tensor]) -> None:
        self.allowed = allowed

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Restrict."""
        if trainer.current_epoch == 0:
            pl_module.model.restrict(self.allowed)


@pytest.mark.parametrize("space", SPACES, ids=["darts", "nasbench201"])
def test_restricted_in_the_middle_of_a_search(tmp_path: Path, space: Any) -> None:
    """What is left goes on as if the factors of the rest had become zero; alphas and optimizers included."""
    allowed = masks(space)

    task = make(tmp_path, space=space)
    callback = Prune(allowed)
    quiet_trainer(max_epochs=2, precision="64-true", callbacks=[callback]).fit(task, datamodule=FixedHalves())
    state = task.trainer.optimizers[0].state_dict()["state"]
    parameters = list(task.model.supernet.parameters())
    assert len(state) == len(parameters)
    assert all(state[i]["momentum_buffer"].shape == p.shape for i, p in enumerate(parameters))
    assert sum(p.numel() for p in parameters) < sum(
        p.numel() for p in make(tmp_path, space=space).model.supernet.parameters()
    )
    factors = task.model.mixtures()
    for name, mask in allowed.items():
        assert (factors[name].operations[~mask] == 0).all()
        torch.testing.assert_close(factors[name].operations.sum(1), torch.ones(len(mask), dtype=torch.float64))
    space.restrict(allowed).check(task.model.discretize())


def test_restricted_search_resumes(tmp_path: Path) -> None:
    """A checkpoint that was written after operations were taken away: the same end as without the interruption."""
    space = DARTSSpace(nodes=2, channels=4, cells=3)
    allowed = masks(space)
    data = FixedHalves(dtype=torch.float32)

    def trainer(epochs: int) -> Trainer:
        return quiet_trainer(max_epochs=epochs, callbacks=[Prune(allowed)])

    whole, half, rest = (make(tmp_path, space=space, selection_images=0) for _ in range(3))
    trainer(4).fit(whole, datamodule=data)
    first = trainer(2)
    first.fit(half, datamodule=data)
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer(4).fit(rest, datamodule=data, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    for name, mask in allowed.items():
        assert torch.equal(rest.model.space.allowed[name], mask)


def test_an_edge_without_operations_takes_no_share(tmp_path: Path) -> None:

    allowed = {name: torch.ones(5, 8, dtype=torch.bool) for name in ("normal", "reduce")}
    allowed["normal"][2] = False
    for normalization in (None, EdgeSoftmax(), JointSoftmax()):
        regularizers = [BetaDecay(1.0), EdgeVariance(1.0)]
        task = make(tmp_path, normalization=normalization, regularizers=regularizers)
        task.model.restrict(allowed)
        mixture = task.model.mixtures()["normal"]
        assert (mixture.operations[2] == 0).all()
        if normalization is not None:
            torch.testing.assert_close(mixture.operations[2:].sum(), torch.tensor(1.0))
        penalty = torch.stack([r.penalty(task.model.masked_alphas(-torch.inf), 0.5) for r in regularizers]).sum()
        (mixture.operations.square().sum() + penalty).backward()
        assert torch.isfinite(penalty)
        assert torch.isfinite(task.model.alphas["normal"].grad).all()
        assert (task.model.alphas["normal"].grad[2] == 0).all()
        fit(task, FixedHalves())
