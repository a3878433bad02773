"""Weights of supernets in the public naming, and their inheritance by name."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError, DataError
from lightning_nas.spaces import (
    DARTSSpace,
    NASBench201Space,
    from_per_edge,
    inherit,
    inherit_optimizer,
    to_per_edge,
)
from tests.spaces.pair import IMAGES, Pair, Searched, close


def test_states_make_the_round_trip() -> None:
    space = DARTSSpace(nodes=3, channels=4, cells=3)
    pair = Pair(space)
    state = to_per_edge(pair.fused.net)
    assert "cells.0._ops.0._ops.4.op.1.weight" in state
    assert "cells.0.preprocess0.op.1.weight" in state
    assert list(state["cells.1._ops.0._ops.3.conv_1.weight"].shape) == [4, 8, 1, 1]
    fresh = space.supernet(**IMAGES).double()
    from_per_edge(state, fresh)
    for a, b in zip(fresh.state_dict().values(), pair.fused.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_what_is_wrong_with_a_state_is_named() -> None:
    net = DARTSSpace(nodes=1, channels=2, cells=1).supernet(**IMAGES)
    state = to_per_edge(net)
    missing = {name: v for name, v in state.items() if name != "stem.0.weight"}
    with pytest.raises(DataError, match=r"stem\.0\.weight"):
        from_per_edge(missing, net)
    with pytest.raises(DataError, match="foreign"):
        from_per_edge({**state, "foreign": torch.zeros(1)}, net)
    with pytest.raises(DataError, match="shape"):
        from_per_edge({**state, "stem.0.weight": torch.zeros(1)}, net)


def test_biases_before_batch_norms_change_nothing() -> None:
    """The convolutions of public supernets of NAS-Bench-201 have biases."""
    space = NASBench201Space(channels=4, cells_per_stage=1)
    pair = Pair(space)
    plain = pair.plain.net
    state = to_per_edge(plain)
    modules = dict(plain.named_modules())
    biases = {}
    for public, name, *_ in plain.per_edge():
        module = modules[name.rpartition(".")[0]]
        if isinstance(module, nn.Conv2d) and ".edges." in name and name.endswith("weight"):
            module.bias = nn.Parameter(torch.randn(module.out_channels).double())
            biases[public.replace(".weight", ".bias")] = module.bias.detach().clone()
    assert len(biases) == 2 * space.edges * 3
    fused = space.supernet(**IMAGES).double()
    from_per_edge({**state, **biases}, fused)
    without = space.supernet(**IMAGES).double()
    from_per_edge(state, without)
    images = torch.randn(6, 3, 32, 32).double()
    alphas = {"cell": torch.randn(space.edges, len(space.operations)).double()}
    for training in (True, False):
        nets = [Searched(net.train(training), space) for net in (plain, fused, without)]
        expected, found, other = (net(images, alphas) for net in nets)
        close(found, expected)
        if not training:
            assert (other - expected).abs().max() > 1e-3
    unknown = {name.replace(".op.1.", ".op.7."): bias for name, bias in biases.items()}
    with pytest.raises(DataError, match="does not have"):
        from_per_edge({**state, **unknown}, fused)


@pytest.mark.parametrize("space", [DARTSSpace(nodes=2, channels=4, cells=3), NASBench201Space(channels=3)])
def test_the_owner_of_a_tensor_is_its_operation(space: Any) -> None:
    nets = [space.supernet(**IMAGES), space.per_edge_supernet(**IMAGES)]
    owners = [{public: net.owner(public) for public, *_ in net.per_edge()} for net in nets]
    assert owners[0] == owners[1]
    assert owners[0]["stem.0.weight"] is None
    owned = {owner for owner in owners[0].values() if owner is not None}
    assert {cell for cell, _, _ in owned} == set(space.cell_types)
    assert {edge for _, edge, _ in owned} == set(range(space.edges))


def step(net: Searched, optimizer: torch.optim.Optimizer, pair: Pair) -> None:
    optimizer.zero_grad()
    pair.loss(net).backward()
    optimizer.step()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3),
        lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
    ],
)
def test_pruning_keeps_weights_and_optimizer_state_by_name(kernel: str, make: Any, plain: bool) -> None:
    if plain and kernel != "dense":
        pytest.skip("the plain supernet has no kernels")
    space = DARTSSpace(nodes=3, channels=4, cells=3)
    generator = torch.Generator().manual_seed(3)
    masks = {name: torch.rand(9, 8, generator=generator) < 0.6 for name in space.cell_types}
    pair = Pair(space, (6, 6))
    full = pair.plain if plain else pair.fused
    optimizer = make(full.parameters())
    for _ in range(3):
        step(full, optimizer, pair)
    narrow = space.restrict(masks)
    pruned = (narrow.per_edge_supernet if plain else narrow.supernet)(**IMAGES).double()
    inherit(pruned, full.net)
    moved = make([nn.Parameter(p.detach().clone()) for p in full.parameters()])
    moved.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    stand_in = copy.deepcopy(full.net)
    for old, new in zip(moved.param_groups[0]["params"], stand_in.parameters(), strict=True):
        moved.state[new] = moved.state.pop(old)
    inherit_optimizer(moved, pruned, stand_in)
    masked = Searched(full.net, narrow)  # the wider supernet with the factors of the narrow space
    for _ in range(2):
        step(masked, optimizer, pair)
        step(Searched(pruned, narrow), moved, pair)
    expected, found = to_per_edge(full.net), to_per_edge(pruned)
    survivors = {name for name in found if "num_batches" not in name}
    assert len(survivors) < len(expected)
    assert any("_ops" in name for name in survivors)
    for name in survivors:
        if "running" not in name:
            close(found[name], expected[name])
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in full.parameters())


class Odd(torch.optim.SGD):
    """Keeps a state that has neither the shape of a weight nor is a number."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            self.state[p]["pair"] = torch.zeros(2)


def test_optimizers_that_cannot_be_moved_are_refused() -> None:
    space = DARTSSpace(nodes=1, channels=2, cells=1)
    wider, net = (space.supernet(**IMAGES) for _ in range(2))
    groups: list[dict[str, list[Tensor]]] = [{"params": [p]} for p in wider.parameters()]
    with pytest.raises(ConfigError, match="parameter groups"):
        inherit_optimizer(torch.optim.SGD(groups, 0.1), net, wider)
    odd = Odd(wider.parameters(), 0.1)
    odd.step()
    with pytest.raises(ConfigError, match="'pair'"):
        inherit_optimizer(odd, net, wider)
