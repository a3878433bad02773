"""The fused supernet of a space beside the plain one, with the same weights."""

import copy
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces import Attention, Mixture, Supernet, from_per_edge, to_per_edge
from lightning_nas.spaces.cell_space import CellSpace


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
"""Supernets and steps of searches written by hand, which share no code with the library."""

# PyTorch sets a variable of its compiler at the first step of an optimizer; not in the middle of a test
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()
TOLERANCE = 1e-9
IMAGES = {"num_classes": 5, "image_shape": (3, 32, 32)}


class Searched(nn.Module):
    """A supernet with a softmax over the alphas, called as the supernets of ``reference`` are."""

    def __init__(self, net: Supernet, space: CellSpace, active: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.net = net
        self.space = space
        self.active = active

    def forward(self, x: Tensor, alphas: Mapping[str, Tensor], betas: Mapping[str, Tensor] | None = None) -> Tensor:
        mixtures = {}
        for name, alpha in alphas.items():
            edges = alpha.new_ones(len(alpha))
            if betas is not None:
                edges = torch.cat([betas[name][node].softmax(0) for node in self.space.nodes])
            active = None if self.active is None else self.active[name]
            factors = alpha.softmax(1) * (self.space.allowed[name] if active is None else active)
            mixtures[name] = Mixture(factors * edges.unsqueeze(1), edges, active)
        logits: Tensor = self.net(x, mixtures)
        return logits


def randomize(net: Supernet) -> None:
    """Give statistics and attention other values than those of a fresh net."""
    for name, b in net.named_buffers():
        if name.endswith("running_var"):
            b.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            b.normal_()
    for name, p in net.named_parameters():
        if ".gates." in name or ".scores." in name:
            nn.init.normal_(p)


class Pair:
    """The fused supernet of a space and the plain one, with the same weights.

    Args:
        space: The space.
        size: Height and width of the images.
        active: Operations to compute; None computes all.
        attention: Attention of both supernets.
        dtype: Of everything.
    """

    def __init__(
        self,
        space: CellSpace,
        size: tuple[int, int] = (8, 8),
        *,
        active: Mapping[str, Tensor] | None = None,
        attention: Attention | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        fused = space.supernet(**IMAGES, attention=attention).to(dtype)
        plain = space.per_edge_supernet(**IMAGES, attention=attention).to(dtype)
        randomize(plain)
        from_per_edge(to_per_edge(plain), fused)
        from_per_edge(to_per_edge(fused), plain)  # in the fused one, targets share the pooled statistics of a source
        self.space = space
        self.fused, self.plain = (Searched(net, space, active) for net in (fused, plain))
        shape = (space.edges, len(space.operations))
        self.alphas = {name: torch.randn(shape, dtype=dtype).requires_grad_() for name in space.cell_types}
        self.betas = None
        if space.partial_channels > 1:
            self.betas = {name: torch.randn(space.edges, dtype=dtype).requires_grad_() for name in space.cell_types}
        self.arch = [*self.alphas.values(), *(self.betas or {}).values()]
        self.x = torch.randn(4, 3, *size, dtype=dtype)
        self.y = torch.randint(5, (4,))

    @property
    def nets(self) -> tuple[Searched, Searched]:
        return self.fused, self.plain

    def loss(self, net: nn.Module, x: Tensor | None = None) -> Tensor:
        return F.cross_entropy(net(self.x if x is None else x, self.alphas, self.betas), self.y)

    def check(self) -> None:
        """Outputs, gradients of all weights and alphas, statistics."""
        close(*(net(self.x, self.alphas, self.betas) for net in self.nets))
        of_alphas = []
        for net in self.nets:
            net.zero_grad()
            for a in self.arch:
                a.grad = None
            self.loss(net).backward()
            of_alphas.append([torch.zeros_like(a) if a.grad is None else a.grad for a in self.arch])
        for a, b in zip(*of_alphas, strict=True):
            close(a, b)
        of_weights = [gradients(net.net) for net in self.nets]
        assert set(of_weights[0]) == set(of_weights[1])
        for name, gradient in of_weights[0].items():
            close(gradient, of_weights[1][name])
        self.check_state()

    def check_state(self) -> None:
        """Weights and statistics; batches are counted together in the fused supernet."""
        states = [to_per_edge(net.net) for net in self.nets]
        assert set(states[0]) == set(states[1])
        for name, value in states[0].items():
            if not name.endswith("num_batches_tracked"):
                close(value, states[1][name])


def gradients(net: Supernet) -> dict[str, Tensor]:
    """The gradients of a supernet's weights in the public naming; zero where there is none."""
    own = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
    return to_per_edge(copy.copy(net), own)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=TOLERANCE, atol=TOLERANCE)
