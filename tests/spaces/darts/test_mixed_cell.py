"""The batched cell equals one module an edge."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.differentiable.attention.operation import OperationAttention
from lightning_nas.errors import DataError
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import Mixture
from lightning_nas.spaces.convert import from_per_edge, to_per_edge
from lightning_nas.spaces.darts import fused_edges
from lightning_nas.spaces.darts.mixed_cell import MixedCell
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.operations import OPERATIONS
from tests.spaces.pair import Pair, close, reference


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (6, 5)])
def test_equals_reference(path: str, size: tuple[int, int]) -> None:
    Pair(size).check()


@pytest.mark.parametrize("nodes", [1, 4, 5])
def test_nodes(path: str, nodes: int) -> None:
    Pair((4, 4), nodes=nodes, channels=2, cells=2).check()


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_partial_channels(path: str, size: tuple[int, int], k: int) -> None:
    Pair(size, channels=8, partial_channels=k).check()


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
def test_subsets_of_operations(path: str, operations: tuple[str, ...]) -> None:
    Pair((6, 6), operations=operations).check()


@pytest.mark.parametrize("k", [1, 2])
def test_eval_mode(path: str, k: int) -> None:
    pair = Pair((8, 8), partial_channels=k)
    pair.ours.eval()
    pair.reference.eval()
    pair.check()


def test_both_paths_in_one_net() -> None:
    Pair((12, 12), nodes=3).check()


@pytest.mark.parametrize("k", [1, 2])
def test_all_targets_at_once(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr(fused_edges, "DENSE_PIXELS", 0)
    Pair((8, 7), nodes=3, partial_channels=k).check()


def test_channels_last_weights_and_images(path: str) -> None:
    pair = Pair()
    pair.ours.to(memory_format=torch.channels_last)
    pair.x = pair.x.contiguous(memory_format=torch.channels_last)
    pair.check()


def test_zero_factors(path: str) -> None:
    pair = Pair()
    factors = {name: a.detach().softmax(1) for name, a in pair.alphas.items()}
    for f in factors.values():
        f[0] = 0
        f[1, 2:] = 0
        f[2, :4] = 0
    weights = {name: f.clone().requires_grad_() for name, f in factors.items()}
    mixtures = {name: Mixture(w, torch.ones(len(w), dtype=w.dtype)) for name, w in weights.items()}
    expected = pair.reference.mixed(pair.x, weights)
    close(pair.ours.net(pair.x, mixtures), expected)
    for a, b in zip(
        torch.autograd.grad(pair.ours.net(pair.x, mixtures).square().sum(), list(weights.values())),
        torch.autograd.grad(expected.square().sum(), list(weights.values())),
        strict=True,
    ):
        close(a, b)


def test_ten_bilevel_steps(path: str) -> None:
    pair = Pair((4, 4), partial_channels=1 if path == "dense" else 2)
    other = copy.deepcopy((pair.alphas, pair.betas))
    nets = ((pair.ours, pair.alphas, pair.betas), (pair.reference, *other))
    setups = []
    for net, alphas, betas in nets:
        arch = [*alphas.values(), *(betas or {}).values()]
        sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4, fused=net is pair.ours)
        adam = torch.optim.Adam(arch, 3e-3, (0.5, 0.999), weight_decay=1e-3, fused=net is pair.ours)
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
def test_second_order(path: str, exact: bool, k: int) -> None:
    """Differentiates twice, through ``functional_call`` with other weights and buffers."""
    pair = Pair((6, 6), partial_channels=k, nodes=2)
    train, search = ((torch.randn_like(pair.x), torch.randint(5, (4,))) for _ in range(2))
    results = []
    for net in (pair.ours, pair.reference):
        sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
        results.append(
            reference.second_order_gradient(net, pair.alphas, pair.betas, train, search, sgd, exact, radius=1e-6)
        )
    for a, b in zip(*results, strict=True):
        # differences divide rounding by their radius
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 if exact else 1e-6)
    pair.check_state()


def test_hessian_of_the_weights(path: str) -> None:
    """The gradient's squared norm, differentiated for every weight."""
    pair = Pair((6, 5), nodes=2)
    results = []
    for net in (pair.ours, pair.reference):
        first = torch.autograd.grad(pair.loss(net), list(net.parameters()), create_graph=True)
        norm = sum(g.square().sum() for g in first)
        norm.backward()
        results.append(norm.detach())
    close(*results)
    named = copy.deepcopy(pair.ours.net)
    with torch.no_grad():
        for p, own in zip(named.parameters(), pair.ours.net.parameters(), strict=True):
            p.copy_(own.grad)
    state = to_per_edge(named)
    for name, p in pair.reference.named_parameters():
        torch.testing.assert_close(state[name], p.grad, rtol=1e-8, atol=1e-8)


class _SpatialWeightGradients(TorchDispatchMode):
    """Counts gradients of convolution kernels wider than a pixel; those of a pixel lead to alphas, too."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default and args[-1][1] and args[2].shape[-2] > 1:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_alpha_gradients_need_no_weight_gradients(path: str) -> None:
    pair = Pair((8, 8), dtype=torch.float32)
    for asked in (pair.arch, list(pair.ours.parameters())):
        loss = pair.loss(pair.ours)
        with _SpatialWeightGradients() as counter:
            torch.autograd.grad(loss, asked)
        assert (counter.count > 0) == (asked is not pair.arch)


@pytest.mark.parametrize(("k", "expected"), [(1, 1_930_618), (4, 299_578)])
def test_parameter_count(k: int, expected: int) -> None:
    net = DARTSSpace(channels=16, cells=8, partial_channels=k).supernet(num_classes=10, image_shape=(3, 32, 32))
    plain = reference.Network(16, 10, 8, partial_channels=k)
    for module in (net, plain):
        assert sum(p.numel() for p in module.parameters()) == expected


def test_conversion_round_trip() -> None:
    pair = Pair(nodes=3, cells=3)
    state = to_per_edge(pair.ours.net)
    assert "cells.0._ops.0._ops.4.op.1.weight" in state
    assert "cells.0.preprocess0.op.1.weight" in state
    assert list(state["cells.1._ops.0._ops.3.conv_1.weight"].shape) == [4, 8, 1, 1]
    fresh = DARTSSpace(nodes=3, channels=4, cells=3).supernet(num_classes=5, image_shape=(3, 8, 8)).double()
    from_per_edge(state, fresh)
    for a, b in zip(fresh.state_dict().values(), pair.ours.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_conversion_names_what_is_wrong() -> None:
    net = DARTSSpace(nodes=1, channels=2, cells=1).supernet(num_classes=5, image_shape=(3, 8, 8))
    state = to_per_edge(net)
    missing = {name: v for name, v in state.items() if name != "stem.0.weight"}
    with pytest.raises(DataError, match=r"stem\.0\.weight"):
        from_per_edge(missing, net)
    with pytest.raises(DataError, match="foreign"):
        from_per_edge({**state, "foreign": torch.zeros(1)}, net)
    with pytest.raises(DataError, match="shape"):
        from_per_edge({**state, "stem.0.weight": torch.zeros(1)}, net)


def test_first_weights_are_spread_as_a_convolution_draws_them() -> None:
    net = DARTSSpace(channels=16, cells=3).supernet(num_classes=10, image_shape=(3, 32, 32))
    own, plain = to_per_edge(net), reference.Network(16, 10, 3).state_dict()
    for part in (
        "0._ops.4.op.1.weight",
        "0._ops.5.op.1.weight",
        "0._ops.7.op.2.weight",
        "0._ops.3.conv_2.weight",
    ):
        name = f"cells.1._ops.{part}"
        assert float(own[name].abs().max()) == pytest.approx(float(plain[name].abs().max()), rel=0.05)


class BothAttentions(Attention):
    """A gate and scores at once."""

    def channel_gate(self, channels: int) -> nn.Module:
        return ChannelAttention().channel_gate(channels)

    def operation_scores(self, channels: int, operations: int) -> nn.Module:
        return OperationAttention(0.5).operation_scores(channels, operations)


def plain_cell(cell: MixedCell, edges: nn.ModuleList, s0: Tensor, s1: Tensor, mixture: Mixture) -> Tensor:
    """Attention on every edge by itself, from its definition."""
    k = cell.partial_channels
    states = [cell.preprocess0(s0), cell.preprocess1(s1)]
    entering: list[Tensor] = []
    edge = 0
    for _ in range(cell.node_count):
        total: Tensor | float = 0.0
        for source, state in enumerate(list(states)):
            part = state.shape[1] // k
            if source == len(entering):
                x = state[:, :part]
                entering.append(x * cell.gates[source](x) if len(cell.gates) else x)
            outputs = [operation(entering[source]) for operation in edges[edge]._ops]
            factors = mixture.operations[edge].expand(len(s0), -1)
            if cell.scores is not None:
                pooled = torch.stack([y.mean((2, 3)) for y in outputs], dim=1).unsqueeze(1)
                changed = factors * cell.scores(pooled).squeeze(1).exp()
                factors = changed / changed.sum(1, keepdim=True) * factors.sum(1, keepdim=True)
            mixed = sum(f[:, None, None, None] * y for f, y in zip(factors.unbind(1), outputs, strict=True))
            if k > 1:
                passing = state[:, part:]
                if cell.reduction and source < 2:
                    passing = F.max_pool2d(passing, 2, ceil_mode=True)
                whole = torch.cat([mixed, mixture.edges[edge] * passing], dim=1)
                mixed = whole.unflatten(1, (k, -1)).transpose(1, 2).flatten(1, 2)
            total = total + mixed
            edge += 1
        states.append(total)
    return torch.cat(states[2:], dim=1)


@pytest.mark.parametrize("attention", [ChannelAttention(), OperationAttention(), BothAttentions()])
@pytest.mark.parametrize(("k", "size"), [(1, (8, 8)), (2, (7, 9))])
def test_attention(path: str, attention: Attention, k: int, size: tuple[int, int]) -> None:
    pair = Pair(size, cells=3, partial_channels=k)
    space = DARTSSpace(nodes=2, channels=4, cells=3, partial_channels=k)
    net = space.supernet(num_classes=5, image_shape=(3, 8, 8), attention=attention).double()
    from_per_edge(pair.reference.state_dict(), net)
    for name, p in net.named_parameters():
        if "gates" in name or "scores" in name:
            nn.init.normal_(p)
    edges = torch.rand(5, dtype=torch.float64)
    factors = torch.rand(5, 8, dtype=torch.float64, requires_grad=True)
    for i, cell in enumerate(net.cells):
        before = [cell.preprocess0, cell.preprocess1]
        halved = [type(p).__name__ == "FactorizedReduce" for p in before]
        channels = [p.conv_1.in_channels if h else p.op[1].in_channels for p, h in zip(before, halved, strict=True)]
        s1 = torch.randn(3, channels[1], *size, dtype=torch.float64, requires_grad=True)
        s0 = torch.randn(3, channels[0], *(2 * n - n % 2 if halved[0] else n for n in size), dtype=torch.float64)
        mixture = Mixture(factors, edges)
        results = []
        for out in (
            cell(s0, s1, mixture),
            plain_cell(cell, pair.reference.cells[i]._ops, s0, s1, mixture),
        ):
            inputs = [
                factors,
                s1,
                *cell.gates.parameters(),
                *(cell.scores.parameters() if cell.scores else ()),
            ]
            results.append([out, *torch.autograd.grad(out.square().mean(), inputs, allow_unused=True)])
        for a, b in zip(*results, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                close(a, b)


def test_attention_with_an_edge_switched_off(path: str) -> None:
    space = DARTSSpace(nodes=1, channels=4, cells=1)
    net = space.supernet(num_classes=5, image_shape=(3, 8, 8), attention=OperationAttention())
    factors = torch.rand(2, 8)
    factors[0] = 0
    factors.requires_grad_()
    out = net(
        torch.randn(2, 3, 8, 8),
        {"normal": Mixture(factors, torch.ones(2)), "reduce": Mixture(factors, torch.ones(2))},
    )
    (grad,) = torch.autograd.grad(out.sum(), factors)
    assert torch.isfinite(out).all()
    assert torch.isfinite(grad).all()


def test_autocast(path: str) -> None:
    pair = Pair((8, 8), dtype=torch.float32)
    pair.ours.eval()
    exact = pair.ours(pair.x, pair.alphas)
    pair.ours.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pair.loss(pair.ours)
        logits = pair.ours.eval()(pair.x, pair.alphas)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in pair.ours.parameters())
    assert torch.isfinite(logits).all()
    assert logits.shape == exact.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(path: str) -> None:
    pair = Pair()
    expected = pair.ours(pair.x, pair.alphas)
    pair.ours.cuda()
    alphas = {name: a.detach().cuda().requires_grad_() for name, a in pair.alphas.items()}
    got = pair.ours(pair.x.cuda(), alphas)
    close(got.cpu(), expected)
    torch.autograd.grad(got.sum(), list(alphas.values()))
