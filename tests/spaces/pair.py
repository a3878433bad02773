"""The batched DARTS supernet beside the plain one of the benchmarks, with the same weights."""

import copy
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.base import Mixture
from lightning_nas.spaces.convert import from_per_edge, to_per_edge
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.darts.supernet import DARTSSupernet
from lightning_nas.spaces.operations import OPERATIONS


def _load_reference() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "reference_darts.py"
    spec = importlib.util.spec_from_file_location("reference_darts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reference = _load_reference()
# PyTorch sets a variable of its compiler at the first step of an optimizer; not in the middle of a test
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()
TOLERANCE = 1e-9
PATHS = {"dense": (10**9, True), "wide": (0, True), "together": (0, False)}
"""Largest number of pixels for the dense kernel, and whether the wide kernel computes targets one by one."""


class Ours(nn.Module):
    """The library's supernet, called as the reference is."""

    def __init__(self, net: DARTSSupernet, edge_weights: Any) -> None:
        super().__init__()
        self.net = net
        self.edge_weights = edge_weights

    def forward(self, x: Tensor, alphas: Mapping[str, Tensor], betas: Mapping[str, Tensor] | None = None) -> Tensor:
        mixtures = {}
        for name, alpha in alphas.items():
            edges = alpha.new_ones(len(alpha)) if betas is None else self.edge_weights(betas[name])
            mixtures[name] = Mixture(alpha.softmax(1) * edges.unsqueeze(1), edges)
        logits: Tensor = self.net(x, mixtures)
        return logits


class Pair:
    """The library's supernet and the reference with the same weights."""

    def __init__(
        self, size: tuple[int, int] = (8, 8), cells: int = 3, dtype: torch.dtype = torch.float64, **space: Any
    ) -> None:
        settings = {
            "nodes": 2,
            "channels": 4,
            "operations": tuple(OPERATIONS),
            "partial_channels": 1,
            **space,
        }
        net = DARTSSpace(cells=cells, **settings).supernet(num_classes=5, image_shape=(3, 8, 8)).to(dtype)
        self.reference = reference.Network(classes=5, cells=cells, **settings).to(dtype)
        self.ours = Ours(net, self.reference.edge_weights)
        # statistics are never those of a fresh net
        for name, b in self.reference.named_buffers():
            if name.endswith("running_var"):
                b.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                b.normal_()
        from_per_edge(self.reference.state_dict(), net)
        self.reference.load_state_dict(to_per_edge(net))  # targets share the pooled statistics of a source
        edges = sum(range(2, 2 + settings["nodes"]))
        shape = (edges, len(settings["operations"]))
        self.alphas = {name: torch.randn(shape, dtype=dtype).requires_grad_() for name in ("normal", "reduce")}
        self.betas = None
        if settings["partial_channels"] > 1:
            self.betas = {name: torch.randn(edges, dtype=dtype).requires_grad_() for name in ("normal", "reduce")}
        self.arch = [*self.alphas.values(), *(self.betas or {}).values()]
        self.x = torch.randn(4, 3, *size, dtype=dtype)
        self.y = torch.randint(5, (4,))

    def loss(self, net: nn.Module, x: Tensor | None = None) -> Tensor:
        return F.cross_entropy(net(self.x if x is None else x, self.alphas, self.betas), self.y)

    def check(self) -> None:
        """Outputs, gradients of all weights and alphas, statistics."""
        logits = [net(self.x, self.alphas, self.betas) for net in (self.ours, self.reference)]
        close(*logits)
        for net in (self.ours, self.reference):
            net.zero_grad()
        grads = []
        for out in logits:
            for a in self.arch:
                a.grad = None
            F.cross_entropy(out, self.y).backward()
            grads.append([None if a.grad is None else a.grad.clone() for a in self.arch])
        for a, b in zip(*grads, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                close(a, b)
        of_weights = copy.deepcopy(self.ours.net)
        with torch.no_grad():
            for p, own in zip(of_weights.parameters(), self.ours.net.parameters(), strict=True):
                p.copy_(torch.zeros_like(p) if own.grad is None else own.grad)
        named = to_per_edge(of_weights)
        for name, p in self.reference.named_parameters():
            close(named[name], torch.zeros_like(p) if p.grad is None else p.grad)
        self.check_state()

    def check_state(self) -> None:
        state = to_per_edge(self.ours.net)
        expected = self.reference.state_dict()
        assert set(state) == set(expected)
        for name, value in expected.items():
            close(state[name].double(), value.double())


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)
