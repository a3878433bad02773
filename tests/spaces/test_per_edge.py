"""The plain supernet: against supernets written by hand, and for a space of a user's own."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.spaces import Attention, DARTSSpace, Mixture, NASBench201Space, to_per_edge
from lightning_nas.tasks.bilevel import BilevelTask
from tests.helpers import FixedHalves, quiet_trainer
from tests.spaces.own_space import PyramidSpace
from tests.spaces.pair import IMAGES, Searched, close, gradients, randomize, reference


def by_hand(space: Any) -> nn.Module:
    """The supernet of a space, written by hand without any code of the library."""
    if isinstance(space, NASBench201Space):
        return reference.NB201Network(space.channels, 5, space.cells_per_stage, space.operations).double()
    return reference.Network(
        space.channels, 5, space.cells, space.node_count, space.operations, space.partial_channels
    ).double()


@pytest.mark.parametrize(
    "space",
    [
        DARTSSpace(nodes=2, channels=4, cells=3),
        DARTSSpace(nodes=3, channels=4, cells=4, partial_channels=2),
        NASBench201Space(channels=3, cells_per_stage=1),
    ],
    ids=["darts", "partial channels", "nasbench201"],
)
@pytest.mark.parametrize("training", [True, False])
def test_equals_supernets_written_by_hand(space: Any, training: bool) -> None:
    plain, hand = space.per_edge_supernet(**IMAGES).double(), by_hand(space)
    randomize(plain)
    hand.load_state_dict(to_per_edge(plain))
    nets = (Searched(plain, space).train(training), hand.train(training))
    alphas = {name: torch.randn(space.edges, len(space.operations)).double() for name in space.cell_types}
    betas = {name: torch.randn(space.edges).double() for name in space.cell_types}
    arch = [a.requires_grad_() for a in (*alphas.values(), *betas.values())]
    x, y = torch.randn(4, 3, 9, 8).double(), torch.randint(5, (4,))
    logits = [net(x, alphas, betas) for net in nets]
    close(*logits)
    of_alphas = [torch.autograd.grad(F.cross_entropy(out, y), arch, retain_graph=True) for out in logits]
    for a, b in zip(*of_alphas, strict=True):
        close(a, b)
    for out in logits:
        F.cross_entropy(out, y).backward()
    found = gradients(plain)
    for name, p in hand.named_parameters():
        close(found[name], torch.zeros_like(p) if p.grad is None else p.grad)
    state = to_per_edge(plain)
    assert set(state) == set(hand.state_dict())
    for name, value in hand.state_dict().items():
        close(state[name].double(), value.double())


def mixtures(space: PyramidSpace) -> dict[str, Mixture]:
    factors = {name: torch.rand(space.edges, len(space.operations)) for name in space.cell_types}
    return {name: Mixture(f, torch.rand(space.edges)) for name, f in factors.items()}


@pytest.mark.parametrize("attention", [None, ChannelAttention()])
@pytest.mark.parametrize("k", [1, 2])
def test_a_space_of_ones_own_has_a_supernet(attention: Attention | None, k: int) -> None:
    space = PyramidSpace(partial_channels=k)
    net = space.supernet(**IMAGES, attention=attention)
    randomize(net)
    x, mixed = torch.randn(2, 3, 9, 7), mixtures(space)
    factors = [m.operations.requires_grad_() for m in mixed.values()]
    logits = net(x, mixed)
    assert logits.shape == (2, 5)
    gradients_of_factors = torch.autograd.grad(logits.square().sum(), factors, retain_graph=True)
    assert all((gradient[:, 1:] != 0).all() for gradient in gradients_of_factors)
    logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_checkpointed_cells_are_the_same() -> None:
    space, x = PyramidSpace(), torch.randn(2, 3, 8, 8)
    net, mixed = space.supernet(**IMAGES), mixtures(PyramidSpace())
    other = copy.deepcopy(net)
    other.checkpoint_cells = True
    for each in (net, other):
        each(x, mixed).square().sum().backward()
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(net.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)


def test_a_path_is_the_network_of_the_architecture() -> None:
    """Separable convolutions have no affine parameters in the supernet; with ones and zeros, networks have the same."""
    space = PyramidSpace()
    architecture = space.sample(torch.Generator().manual_seed(1))
    supernet = space.supernet(**IMAGES)
    network = space.network(architecture, **IMAGES, channels=space.channels, cells=space.cells)
    own, state = supernet.state_dict(), network.state_dict()
    for name in state:
        parts = name.split(".")
        if parts[0] == "cells" and parts[2] == "nodes":
            cell, node, slot = int(parts[1]), int(parts[3]), int(parts[4])
            kept = space.chosen(architecture)[supernet.cells[cell].cell_type]
            nodes = [pair for pair in kept if space.nodes[node].start <= pair[0] < space.nodes[node].stop]
            edge, operation = nodes[slot]
            state[name] = own.get(f"cells.{cell}.edges.{edge}.{operation}.{'.'.join(parts[5:])}", state[name])
        else:
            state[name] = own[name]
    network.load_state_dict(state)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(supernet(x, space.to_path(architecture)), network(x), rtol=1e-4, atol=1e-5)


def test_what_is_not_computed_has_no_gradient_and_keeps_its_statistics() -> None:
    space = PyramidSpace()
    net = space.supernet(**IMAGES)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    path = space.to_path(space.sample(torch.Generator().manual_seed(0)))
    net(torch.randn(2, 3, 8, 8), path).sum().backward()
    for name, p in net.named_parameters():
        owner = net.owner(name)
        computed = owner is None or bool(path[owner[0]].active[owner[1], owner[2]])
        assert (p.grad is not None) == computed, name
    for name, value in net.state_dict().items():
        owner = net.owner(name)
        if "running" in name and owner is not None and not path[owner[0]].active[owner[1], owner[2]]:
            assert torch.equal(value, before[name])


def test_dropout_of_skips_scales_what_it_leaves() -> None:
    space = PyramidSpace(operations=("skip_connect",), cells=1)
    net = space.supernet(**IMAGES)
    x, mixed = torch.rand(2, 3, 8, 8), {name: Mixture(torch.ones(7, 1), torch.ones(7)) for name in space.cell_types}
    plain = net(x, mixed)
    net.set_skip_dropout(0.5)
    assert not torch.equal(net(x, mixed), plain)
    net.set_skip_dropout(0.0)
    torch.testing.assert_close(net.eval()(x, mixed), net(x, mixed))


def test_a_space_of_ones_own_is_searched(tmp_path: Path) -> None:
    space = PyramidSpace()
    task = BilevelTask(
        space=space,
        discretizer=SoftmaxScore(),
        hypergradient=FirstOrder(),
        weight_optimizer=lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
        alpha_optimizer=lambda p: torch.optim.Adam(p, 0.05),
        num_classes=3,
        image_shape=(3, 8, 8),
        output_dir=str(tmp_path),
        selection_images=0,
    )
    before = copy.deepcopy(dict(task.named_parameters()))
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(task, datamodule=FixedHalves(batches=2, dtype=torch.float32))
    unmoved = [name for name, p in task.named_parameters() if torch.equal(p, before[name])]
    assert all(".scale." in name for name in unmoved)  # the few inner channels of squeeze and excitation may be dead
    assert len(unmoved) < len(before) / 10
    space.check(task.found)
