"""The fused supernet of NAS-Bench-201 equals the plain one, with one module per edge and operation."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.spaces import NASBench201Space, to_per_edge
from lightning_nas.spaces.nasbench201.network import CELL_OPERATIONS
from lightning_nas.spaces.nasbench201.supernet import NASBench201Supernet
from tests.spaces.pair import IMAGES, Pair, close, reference

OPERATIONS = tuple(CELL_OPERATIONS)


def small(**arguments: Any) -> NASBench201Space:
    return NASBench201Space(**{"channels": 3, "cells_per_stage": 1, **arguments})


def random_mask(density: float) -> Tensor:
    mask = torch.rand(6, 5) < density
    mask[~mask.any(1), 0] = True
    return mask


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (6, 5)])
def test_equals_the_plain_supernet(size: tuple[int, int]) -> None:
    pair = Pair(small(), size)
    assert isinstance(pair.fused.net, NASBench201Supernet)
    pair.check()


def test_two_cells_per_stage_in_eval_mode() -> None:
    pair = Pair(small(cells_per_stage=2))
    for net in pair.nets:
        net.eval()
    pair.check()


@pytest.mark.parametrize(
    "operations",
    [("skip_connect", "none"), ("nor_conv_3x3",), ("avg_pool_3x3", "nor_conv_1x1"), tuple(reversed(OPERATIONS))],
)
def test_subsets_of_operations(operations: tuple[str, ...]) -> None:
    Pair(small(operations=operations), (6, 6)).check()


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_any_operations_on_any_edge(density: float, restricted: bool) -> None:
    mask = {"cell": random_mask(density)}
    space = small().restrict(mask) if restricted else small()
    for training in (True, False):
        pair = Pair(space, (6, 6), active=None if restricted else mask)
        for net in pair.nets:
            net.train(training)
        pair.check()


def test_active_part_of_a_restricted_space() -> None:
    mask = random_mask(0.7)
    active = mask & (torch.rand(6, 5) < 0.6)
    Pair(small().restrict({"cell": mask}), (5, 5), active={"cell": active}).check()


def test_no_weights_are_stored_for_operations_that_an_edge_may_not_take() -> None:
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, 1] = True
    mask[2, 3] = mask[3, 2] = True
    net = small().restrict({"cell": mask}).supernet(**IMAGES)
    assert sum(p.numel() for p in net.cells[0].parameters()) == 3 * 3 * 9 + 3 * 3
    convolutions = sorted(name for name in to_per_edge(net) if "cells.0" in name and name.endswith("weight"))
    assert convolutions == ["cells.0.edges.2<-1.3.op.1.weight", "cells.0.edges.3<-0.2.op.1.weight"]


def test_ten_bilevel_steps() -> None:
    pair = Pair(small(operations=OPERATIONS[1:]))
    other = copy.deepcopy(pair.alphas)
    setups = []
    for net, alphas in ((pair.fused, pair.alphas), (pair.plain, other)):
        sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4, nesterov=True)
        setups.append((net, alphas, sgd, torch.optim.Adam(alphas.values(), 3e-3, weight_decay=1e-3)))
    for _ in range(10):
        train, search = ((torch.randn_like(pair.x), torch.randint(5, (4,))) for _ in range(2))
        losses = [
            reference.first_order_step(net, alphas, None, train, search, sgd, adam) for net, alphas, sgd, adam in setups
        ]
        close(*losses)
    close(pair.alphas["cell"], other["cell"])
    pair.check_state()


@pytest.mark.parametrize("exact", [True, False])
def test_second_order(exact: bool) -> None:
    """Differentiates twice, through ``functional_call`` with other weights and buffers."""
    pair = Pair(small(), (6, 6))
    train, search = ((torch.randn_like(pair.x), torch.randint(5, (4,))) for _ in range(2))
    results = []
    for net in pair.nets:
        sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
        results += reference.second_order_gradient(net, pair.alphas, None, train, search, sgd, exact, radius=1e-6)
    # finite differences divide rounding errors by their radius
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9 if exact else 1e-6)
    pair.check_state()


class _WeightGradients(TorchDispatchMode):
    """Counts gradients of the weights of 3x3 convolutions."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default and args[-1][1] and args[2].shape[-2] > 1:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_each_phase_computes_only_its_own_gradients() -> None:
    pair = Pair(small(), dtype=torch.float32)
    loss = pair.loss(pair.fused)
    with _WeightGradients() as counter:
        torch.autograd.grad(loss, pair.alphas["cell"])
    assert counter.count == 0
    pair.alphas = {"cell": pair.alphas["cell"].detach()}
    loss = pair.loss(pair.fused)
    with _WeightGradients() as counter:
        loss.backward()
    # one for the stem, one per inner state of each cell, two per residual block
    assert counter.count == 1 + 3 * 3 + 2 * 2


def test_first_weights_are_spread_as_a_convolution_draws_them() -> None:
    space = NASBench201Space(cells_per_stage=1)
    own, plain = to_per_edge(space.supernet(**IMAGES)), to_per_edge(space.per_edge_supernet(**IMAGES))
    assert {name: v.shape for name, v in own.items()} == {name: v.shape for name, v in plain.items()}
    for name in ("cells.0.edges.3<-1.3.op.1.weight", "cells.0.edges.2<-1.2.op.1.weight"):
        assert float(own[name].abs().max()) == pytest.approx(float(plain[name].abs().max()), rel=0.05)


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_attention(density: float) -> None:
    active = None if density == 1 else {"cell": random_mask(density)}
    Pair(small(), (9, 8), active=active, attention=ChannelAttention()).check()


def test_autocast() -> None:
    pair = Pair(small(), dtype=torch.float32)
    pair.fused.eval()
    exact = pair.fused(pair.x, pair.alphas)
    pair.fused.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pair.loss(pair.fused)
        logits = pair.fused.eval()(pair.x, pair.alphas)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in pair.fused.parameters())
    assert logits.shape == exact.shape
    assert torch.isfinite(logits).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    pair = Pair(small())
    results = []
    for device in ("cpu", "cuda"):
        pair.fused.to(device)
        alphas = {"cell": pair.alphas["cell"].detach().to(device).requires_grad_()}
        out = pair.fused(pair.x.to(device), alphas)
        results.append([out.cpu(), torch.autograd.grad(out.square().sum(), alphas["cell"])[0].cpu()])
    for a, b in zip(*results, strict=True):
        close(a, b)


def test_two_paths_make_one_backward_pass() -> None:
    """The first takes all 3x3 convolutions from a node, the second some: both move the same running statistics."""
    space = NASBench201Space(channels=4, cells_per_stage=1)
    supernet = space.supernet(num_classes=3, image_shape=(3, 8, 8)).train()
    texts = (
        "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_3x3~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|",
        "|skip_connect~0|+|avg_pool_3x3~0|nor_conv_3x3~1|+|skip_connect~0|skip_connect~1|nor_conv_3x3~2|",
    )
    images = torch.randn(4, 3, 8, 8)
    losses = [supernet(images, space.to_path(space.parse(text))).square().mean() for text in texts]
    torch.stack(losses).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in supernet.parameters() if p.grad is not None)
