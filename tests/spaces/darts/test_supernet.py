"""The fused DARTS supernet equals the plain one, with one module per edge and operation."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.spaces import DARTSSpace, Mixture, to_per_edge
from lightning_nas.spaces.darts import fused_edges
from lightning_nas.spaces.darts.supernet import DARTSSupernet
from lightning_nas.spaces.operations import OPERATIONS
from tests.spaces.pair import Pair, close, gradients, reference


def small(**arguments: Any) -> DARTSSpace:
    return DARTSSpace(**{"nodes": 2, "channels": 4, "cells": 3, **arguments})


def random_masks(seed: int, edges: int, density: float, *, pools: bool | None = None) -> dict[str, Tensor]:
    """Operations on edges; a pool's statistics are one tensor per state, so edges have all pools or none of them."""
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(edges, 8, generator=generator) < density for name in ("normal", "reduce")}
    for mask in masks.values():
        mask[:, 1:3] = mask[0, 1:3].clone() if pools is None else pools
    return masks


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (6, 5)])
def test_equals_the_plain_supernet(kernel: str, size: tuple[int, int]) -> None:
    pair = Pair(small(), size)
    assert isinstance(pair.fused.net, DARTSSupernet)
    pair.check()


@pytest.mark.parametrize("nodes", [1, 4, 5])
def test_nodes(kernel: str, nodes: int) -> None:
    Pair(small(nodes=nodes, channels=2, cells=2), (4, 4)).check()


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_partial_channels(kernel: str, size: tuple[int, int], k: int) -> None:
    Pair(small(channels=8, partial_channels=k), size).check()


@pytest.mark.parametrize(
    "operations",
    [
        ("skip_connect", "none"),
        ("dil_conv_3x3",),
        ("none", "dil_conv_5x5", "sep_conv_3x3"),
        ("sep_conv_5x5", "avg_pool_3x3"),
        ("max_pool_3x3", "dil_conv_5x5", "skip_connect", "sep_conv_3x3"),
        ("avg_pool_3x3", "max_pool_3x3"),
        tuple(reversed(OPERATIONS)),
    ],
)
def test_subsets_of_operations(kernel: str, operations: tuple[str, ...]) -> None:
    Pair(small(operations=operations), (6, 6)).check()


@pytest.mark.parametrize("k", [1, 2])
def test_eval_mode(kernel: str, k: int) -> None:
    pair = Pair(small(partial_channels=k))
    for net in pair.nets:
        net.eval()
    pair.check()


def test_both_kernels_in_one_net() -> None:
    Pair(small(nodes=3), (12, 12)).check()


@pytest.mark.parametrize("k", [1, 2])
def test_all_targets_at_once(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr(fused_edges, "DENSE_PIXELS", 0)
    Pair(small(nodes=3, partial_channels=k), (8, 7)).check()


def test_channels_last_weights_and_images(kernel: str) -> None:
    pair = Pair(small())
    pair.fused.to(memory_format=torch.channels_last)
    pair.x = pair.x.contiguous(memory_format=torch.channels_last)
    pair.check()


def test_zero_factors(kernel: str) -> None:
    pair = Pair(small())
    factors = {name: a.detach().softmax(1) for name, a in pair.alphas.items()}
    for f in factors.values():
        f[0] = 0
        f[1, 2:] = 0
        f[2, :4] = 0
    weights = {name: f.clone().requires_grad_() for name, f in factors.items()}
    mixtures = {name: Mixture(w, torch.ones(len(w), dtype=w.dtype)) for name, w in weights.items()}
    outputs = [net.net(pair.x, mixtures) for net in pair.nets]
    close(*outputs)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), list(weights.values())) for y in outputs), strict=True):
        close(a, b)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("density", [0.15, 0.6])
def test_any_operations_on_any_edge(kernel: str, seed: int, density: float) -> None:
    space = small(nodes=3, partial_channels=2 if seed == 3 else 1)
    space.allowed = random_masks(seed, 9, density)  # without the check that every node keeps two inputs
    Pair(space, (7, 6)).check()


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("density", [0.15, 0.85])
def test_operations_that_are_not_active_are_skipped(kernel: str, seed: int, density: float) -> None:
    space = small(nodes=3, partial_channels=2 if seed == 2 else 1)
    Pair(space, (7, 6), active=random_masks(seed, 9, density)).check()


def test_active_operations_in_a_restricted_supernet(kernel: str) -> None:
    space = small(nodes=3)
    space.allowed = random_masks(0, 9, 0.7, pools=True)
    active = random_masks(1, 9, 0.5, pools=True)
    Pair(space, (6, 6), active={name: mask & active[name] for name, mask in space.allowed.items()}).check()


@pytest.mark.parametrize(("k", "size"), [(1, (8, 8)), (2, (7, 9))])
def test_attention(kernel: str, k: int, size: tuple[int, int]) -> None:
    Pair(small(partial_channels=k), size, attention=ChannelAttention()).check()


@pytest.mark.parametrize("density", [0.3, 0.7])
def test_attention_on_active_operations(kernel: str, density: float) -> None:
    Pair(small(), active=random_masks(5, 5, density), attention=ChannelAttention()).check()


@pytest.mark.slow
def test_ten_bilevel_steps(kernel: str) -> None:
    pair = Pair(small(partial_channels=1 if kernel == "dense" else 2), (4, 4))
    other = copy.deepcopy((pair.alphas, pair.betas))
    nets = ((pair.fused, pair.alphas, pair.betas), (pair.plain, *other))
    setups = []
    for net, alphas, betas in nets:
        arch = [*alphas.values(), *(betas or {}).values()]
        sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4, fused=net is pair.fused)
        adam = torch.optim.Adam(arch, 3e-3, (0.5, 0.999), weight_decay=1e-3, fused=net is pair.fused)
        setups.append((net, alphas, betas, sgd, adam))
    for _ in range(10):
        train, search = ((torch.randn_like(pair.x), torch.randint(5, (4,))) for _ in range(2))
        losses = [
            reference.first_order_step(net, alphas, betas, train, search, sgd, adam)
            for net, alphas, betas, sgd, adam in setups
        ]
        close(*losses)
    for name, alpha in pair.alphas.items():
        close(alpha, other[0][name])
    pair.check_state()


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("exact", [True, False])
def test_second_order(kernel: str, exact: bool, k: int) -> None:
    """Differentiates twice, through ``functional_call`` with other weights and buffers."""
    pair = Pair(small(partial_channels=k), (6, 6))
    train, search = ((torch.randn_like(pair.x), torch.randint(5, (4,))) for _ in range(2))
    results = []
    for net in pair.nets:
        sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
        results.append(
            reference.second_order_gradient(net, pair.alphas, pair.betas, train, search, sgd, exact, radius=1e-6)
        )
    for a, b in zip(*results, strict=True):
        # finite differences divide rounding errors by their radius
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 if exact else 1e-6)
    pair.check_state()


def test_hessian_of_the_weights(kernel: str) -> None:
    """The squared norm of the gradient, differentiated for every weight."""
    pair = Pair(small(), (6, 5))
    results = []
    for net in pair.nets:
        first = torch.autograd.grad(pair.loss(net), list(net.parameters()), create_graph=True)
        norm = sum(g.square().sum() for g in first)
        norm.backward()
        results.append(norm.detach())
    close(*results)
    of_fused, of_plain = (gradients(net.net) for net in pair.nets)
    for name, gradient in of_fused.items():
        torch.testing.assert_close(gradient, of_plain[name], rtol=1e-8, atol=1e-8)


class _SpatialWeightGradients(TorchDispatchMode):
    """Counts gradients of convolution kernels wider than a pixel; those of a pixel lead to alphas, too."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default and args[-1][1] and args[2].shape[-2] > 1:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_gradients_of_alphas_need_no_gradients_of_weights(kernel: str) -> None:
    pair = Pair(small(), dtype=torch.float32)
    for asked in (pair.arch, list(pair.fused.parameters())):
        loss = pair.loss(pair.fused)
        with _SpatialWeightGradients() as counter:
            torch.autograd.grad(loss, asked)
        assert (counter.count > 0) == (asked is not pair.arch)


@pytest.mark.parametrize(("k", "expected"), [(1, 1_930_618), (4, 299_578)])
def test_both_supernets_have_the_published_number_of_parameters(k: int, expected: int) -> None:
    space = DARTSSpace(partial_channels=k)
    options = {"num_classes": 10, "image_shape": (3, 32, 32)}
    for module in (space.supernet(**options), space.per_edge_supernet(**options)):
        assert sum(p.numel() for p in module.parameters()) == expected


def test_first_weights_are_spread_as_a_convolution_draws_them() -> None:
    space, options = DARTSSpace(cells=3), {"num_classes": 10, "image_shape": (3, 32, 32)}
    own, plain = to_per_edge(space.supernet(**options)), to_per_edge(space.per_edge_supernet(**options))
    for part in (
        "0._ops.4.op.1.weight",
        "0._ops.5.op.1.weight",
        "0._ops.7.op.2.weight",
        "0._ops.3.conv_2.weight",
    ):
        name = f"cells.1._ops.{part}"
        assert float(own[name].abs().max()) == pytest.approx(float(plain[name].abs().max()), rel=0.05)


def flops(net: nn.Module, x: Tensor, mixtures: dict[str, Mixture]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, mixtures)
    return int(counter.get_total_flops())


def test_architectures_and_masked_mixtures_compute_less(kernel: str) -> None:
    space = small(nodes=4, channels=8)
    net = space.supernet(num_classes=5, image_shape=(3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    full = {name: Mixture(torch.full((14, 8), 1 / 8), torch.ones(14)) for name in space.cell_types}
    without = {}
    for name, mixture in full.items():
        active = torch.ones(14, 8, dtype=torch.bool)
        active[3, 5] = False
        without[name] = Mixture(mixture.operations * active, mixture.edges, active)
    most = flops(net, x, full)
    assert flops(net, x, without) < most
    architecture = space.sample(torch.Generator().manual_seed(0))
    assert flops(net, x, space.to_path(architecture)) < most / 3


def test_a_path_is_the_architecture() -> None:
    space = small()
    net = space.supernet(num_classes=5, image_shape=(3, 8, 8)).double().eval()
    architecture = space.sample(torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 8, 8).double()
    mixtures = space.to_path(architecture)
    for name, kept in space.chosen(architecture).items():
        assert mixtures[name].operations.nonzero().tolist() == sorted(map(list, kept))
    mixtures = {name: Mixture(m.operations.double(), m.edges.double(), m.active) for name, m in mixtures.items()}
    close(net(x, mixtures), net(x, {name: m._replace(active=None) for name, m in mixtures.items()}))


def test_autocast(kernel: str) -> None:
    pair = Pair(small(), dtype=torch.float32)
    pair.fused.eval()
    exact = pair.fused(pair.x, pair.alphas)
    pair.fused.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pair.loss(pair.fused)
        logits = pair.fused.eval()(pair.x, pair.alphas)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in pair.fused.parameters())
    assert torch.isfinite(logits).all()
    assert logits.shape == exact.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(kernel: str) -> None:
    pair = Pair(small())
    expected = pair.fused(pair.x, pair.alphas)
    pair.fused.cuda()
    alphas = {name: a.detach().cuda().requires_grad_() for name, a in pair.alphas.items()}
    got = pair.fused(pair.x.cuda(), alphas)
    close(got.cpu(), expected)
    torch.autograd.grad(got.sum(), list(alphas.values()))
