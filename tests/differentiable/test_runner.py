"""How a search runs its supernet changes its speed and memory, not its result."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lightning_nas.differentiable.hypergradient.exact_second_order import ExactSecondOrder
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.helpers import FixedHalves
from tests.tasks.test_bilevel import fit, make

SPACES = [DARTSSpace(nodes=2, channels=4, cells=3), NASBench201Space(channels=4, cells_per_stage=1)]


def searched(tmp_path: Path, **options: Any) -> dict[str, Tensor]:
    task = fit(make(tmp_path, **options), FixedHalves(batches=2))
    return {name: value.clone() for name, value in task.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
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
    """Replaces CUDA's recording: runs the network as recording does, and replays by calling it."""

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
    """Everything but the replay itself, which needs a GPU: two passes are recorded, without moving the statistics."""
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
    """A compiled program computes all gradients that were asked for when it was compiled, so none may be asked for."""
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
