"""Some operations on some edges: spaces that are restricted, and factors that are skipped."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_nas.differentiable.attention.operation import OperationAttention
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.spaces.base import Mixture
from lightning_nas.spaces.convert import from_per_edge, inherit, inherit_optimizer, to_per_edge
from lightning_nas.spaces.darts.rectangles import rectangles
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.operations import OPERATIONS
from tests.spaces.pair import Pair, close

NAMES = ("normal", "reduce")


def random_masks(seed: int, edges: int, operations: int, density: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(edges, operations, generator=generator) < density for name in NAMES}


def masked(pair: Pair, masks: Mapping[str, Tensor], active: bool = False) -> dict[str, Mixture]:
    """Factors that are zero outside the masks."""
    mixtures = {}
    for name, alpha in pair.alphas.items():
        factors = alpha.softmax(1) * masks[name]
        edges = alpha.new_ones(len(alpha)) if pair.betas is None else pair.reference.edge_weights(pair.betas[name])
        mixtures[name] = Mixture(factors * edges[:, None], edges, masks[name] if active else None)
    return mixtures


def compare(pair: Pair, net: nn.Module, masks: Mapping[str, Tensor], active: bool) -> None:
    """Output, gradients of alphas where the masks let them pass, of surviving weights, and their statistics."""
    mixtures = masked(pair, masks, active)
    before = {name: value.clone() for name, value in pair.reference.state_dict().items()}
    # the reference multiplies by the edges itself
    plain = {name: alpha.softmax(1) * masks[name] for name, alpha in pair.alphas.items()}
    edges = pair.betas and {name: pair.reference.edge_weights(beta) for name, beta in pair.betas.items()}
    results = [net(pair.x, mixtures), pair.reference.mixed(pair.x, plain, edges)]
    close(*results)
    gradients = []
    for module, out in zip((net, pair.reference), results, strict=True):
        module.zero_grad()
        for a in pair.arch:
            a.grad = None
        F.cross_entropy(out, pair.y).backward()
        gradients.append([a.grad.clone() for a in pair.arch if a.grad is not None])
    for a, b in zip(*gradients, strict=True):
        close(a, b)
    own = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in net.named_parameters()}
    public = to_per_edge(net, own)
    expected = dict(pair.reference.named_parameters())
    checked = 0
    for name, gradient in public.items():
        grad = expected[name].grad
        close(gradient, torch.zeros_like(gradient) if grad is None else grad)
        checked += 1
    assert checked
    after = pair.reference.state_dict()
    for name, value in to_per_edge(net).items():
        if not name.endswith("num_batches_tracked") and ("_ops" not in name or computed(name, masks, net)):
            close(value, after[name])
        elif not name.endswith("num_batches_tracked"):
            close(value, before[name])


def computed(name: str, masks: Mapping[str, Tensor], net: nn.Module) -> bool:
    """Whether an operation of the public naming is in the masks. Pools of a state share their statistics."""
    _, cell, _, edge, _, operation, *_ = name.split(".")
    reduction = net.cells[int(cell)].reduction
    mask = masks["reduce" if reduction else "normal"]
    return bool(mask[int(edge), int(operation)])


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("density", [0.15, 0.6])
def test_any_subset_of_operations_on_any_edge(path: str, seed: int, density: float) -> None:
    pair = Pair((7, 6), nodes=3, partial_channels=2 if seed == 3 else 1)
    masks = random_masks(seed, 9, 8, density)
    space = DARTSSpace(nodes=3, channels=4, cells=3, partial_channels=2 if seed == 3 else 1)
    space.allowed = masks  # past the check that every node keeps two inputs
    net = space.supernet(num_classes=5, image_shape=(3, 32, 32), attention=None).double()
    from_per_edge(pair.reference.state_dict(), net, surplus=True)
    compare(pair, net, masks, active=False)


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("density", [0.15, 0.85])
def test_what_is_not_active_is_skipped(path: str, seed: int, density: float) -> None:
    pair = Pair((7, 6), nodes=3, partial_channels=2 if seed == 2 else 1)
    masks = random_masks(seed, 9, 8, density)
    # a pool's statistics are one tensor a state: active for all targets or for none
    for mask in masks.values():
        mask[:, 1:3] = mask[0, 1:3]
    compare(pair, pair.ours.net, masks, active=True)


def test_active_in_a_restricted_supernet(path: str) -> None:
    pair = Pair((6, 6), nodes=3)
    allowed, active = random_masks(0, 9, 8, 0.7), random_masks(1, 9, 8, 0.5)
    for mask in (*allowed.values(), *active.values()):
        mask[:, 1:3] = True
    space = DARTSSpace(nodes=3, channels=4, cells=3)
    space.allowed = allowed
    net = space.supernet(num_classes=5, image_shape=(3, 32, 32), attention=None).double()
    from_per_edge(pair.reference.state_dict(), net, surplus=True)
    compare(pair, net, {name: allowed[name] & active[name] for name in NAMES}, active=True)


def test_attention_of_operations_on_subsets(path: str) -> None:
    """Skipped operations take no part in the scores: as if they had no weights."""
    masks = random_masks(5, 5, 8, 0.6)
    space = DARTSSpace(nodes=2, channels=4, cells=3)
    attention = OperationAttention(0.5)
    full = space.supernet(num_classes=5, image_shape=(3, 8, 8), attention=attention).double()
    space.allowed = masks
    net = space.supernet(num_classes=5, image_shape=(3, 32, 32), attention=attention).double()
    inherit(net, full)
    x = torch.randn(2, 3, 8, 8).double()
    factors = {name: torch.rand(5, 8).double() * masks[name] for name in NAMES}
    ones = torch.ones(5).double()
    skipped = full(x, {name: Mixture(f, ones, masks[name]) for name, f in factors.items()})
    close(net(x, {name: Mixture(f, ones) for name, f in factors.items()}), skipped)
    # pooled values of what is skipped stay zero; in the plain forward they reach the scores of the others
    assert not torch.equal(full(x, {name: Mixture(f, ones) for name, f in factors.items()}), skipped)


def flops(net: nn.Module, x: Tensor, mixtures: dict[str, Mixture]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, mixtures)
    return int(counter.get_total_flops())


def test_discretized_and_masked_evaluations_compute_less(path: str) -> None:
    space = DARTSSpace(channels=8, cells=3)
    net = space.supernet(num_classes=5, image_shape=(3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    full = {name: Mixture(torch.full((14, 8), 1 / 8), torch.ones(14)) for name in NAMES}
    without = {}
    for name, mixture in full.items():
        active = torch.ones(14, 8, dtype=torch.bool)
        active[3, 5] = False
        without[name] = Mixture(mixture.operations * active, mixture.edges, active)
    most = flops(net, x, full)
    assert flops(net, x, without) < most
    architecture = space.sample(torch.Generator().manual_seed(0))
    assert flops(net, x, space.to_path(architecture)) < most / 3


def test_discrete_is_the_architecture() -> None:
    space = DARTSSpace(nodes=2, channels=4, cells=3)
    net = space.supernet(num_classes=5, image_shape=(3, 8, 8)).double().eval()
    architecture = space.sample(torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 8, 8).double()
    mixtures = space.to_path(architecture)
    for name, kept in space.chosen(architecture).items():
        assert mixtures[name].operations.nonzero().tolist() == sorted(map(list, kept))
    mixtures = {name: Mixture(m.operations.double(), m.edges.double(), m.active) for name, m in mixtures.items()}
    close(net(x, mixtures), net(x, {name: m._replace(active=None) for name, m in mixtures.items()}))


def step(net: nn.Module, sgd: torch.optim.Optimizer, pair: Pair, masks: Mapping[str, Tensor]) -> None:
    sgd.zero_grad()
    F.cross_entropy(net(pair.x, masked(pair, masks)), pair.y).backward()
    sgd.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-3),
        lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
    ],
)
def test_pruning_keeps_weights_and_optimizer_state_by_name(path: str, make: Any) -> None:
    pair = Pair((6, 6), nodes=3)
    everything = {name: torch.ones(9, 8, dtype=torch.bool) for name in NAMES}
    masks = random_masks(3, 9, 8, 0.6)
    full = pair.ours.net
    optimizer = make(full.parameters())
    for _ in range(3):
        step(full, optimizer, pair, everything)
    space = DARTSSpace(nodes=3, channels=4, cells=3).restrict(masks)
    pruned = space.supernet(num_classes=5, image_shape=(3, 8, 8)).double()
    inherit(pruned, full)
    moved = make([nn.Parameter(p.detach().clone()) for p in full.parameters()])
    moved.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    stand_in = copy.deepcopy(full)
    for old, new in zip(moved.param_groups[0]["params"], stand_in.parameters(), strict=True):
        moved.state[new] = moved.state.pop(old)
    inherit_optimizer(moved, pruned, stand_in)
    for _ in range(2):
        step(full, optimizer, pair, masks)
        step(pruned, moved, pair, masks)
    expected = to_per_edge(full)
    found = to_per_edge(pruned)
    survivors = {name for name in found if "num_batches" not in name}
    assert len(survivors) < len(expected)
    assert any("_ops" in name for name in survivors)
    for name in survivors:
        if "running" not in name:
            close(found[name], expected[name])
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in full.parameters())


def test_rectangles_cover_a_set_once() -> None:
    generator = torch.Generator().manual_seed(0)
    for density in (0.1, 0.5, 0.9, 1.1):
        for sources in (1, 2):
            mask = torch.rand(4, sources, 5, generator=generator) < density
            count = torch.zeros(mask.shape, dtype=torch.long)
            for targets, of, operations in rectangles(mask):
                for t in targets:
                    for s in of:
                        count[t, s, list(operations)] += 1
            assert torch.equal(count, mask.long())
    assert len(rectangles(torch.ones(4, 2, 5, dtype=torch.bool))) == 1


def test_restricted_space() -> None:
    space = DARTSSpace(nodes=2, channels=4, cells=3)
    masks = {name: torch.zeros(5, 8, dtype=torch.bool) for name in NAMES}
    masks["normal"][:, 3] = masks["normal"][2:4, 5] = True
    masks["reduce"][:, :] = True
    small = space.restrict(masks)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        architecture = small.sample(generator)
        space.check(architecture)
        assert all(masks["normal"][edge, o] for edge, o in small.chosen(architecture)["normal"])
        near = list(small.neighbours(architecture))
        assert {a for a in space.neighbours(architecture) if _inside(small, a)} == set(near)
    best = small.largest()
    assert [o for _, o in small.chosen(best)["normal"]] == [3, 3, 5, 5]
    outside = space.largest()
    with pytest.raises(ArchitectureError, match=r"takes one of \[3\]"):
        small.check(outside)
    again = DARTSSpace(
        nodes=2, allowed={"normal": [["skip_connect"], ["skip_connect"], ["sep_conv_5x5"], ["sep_conv_5x5"], []]}
    )
    assert again.allowed["normal"].sum() == 4
    assert again.allowed["reduce"].all()


def _inside(space: DARTSSpace, architecture: Any) -> bool:
    try:
        space.check(architecture)
    except ArchitectureError:
        return False
    return True


def test_sampling_a_restricted_space_is_uniform() -> None:
    rows = [["skip_connect"], ["skip_connect", "sep_conv_3x3"]]
    more = [["skip_connect"], ["skip_connect", "sep_conv_3x3", "sep_conv_5x5"], ["skip_connect", "none"]]
    space = DARTSSpace(nodes=2, allowed={"normal": rows + more, "reduce": [["skip_connect"]] * 5})
    generator = torch.Generator().manual_seed(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(2800):
        key = space.sample(generator).choices[:8]
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 2 * 7  # node 1: 1 * 3 + 1 * 1 + 3 * 1
    assert min(counts.values()) > 140
    assert max(counts.values()) < 265


def test_wrong_restrictions_are_refused() -> None:
    space = DARTSSpace(nodes=1)
    with pytest.raises(ConfigError, match="leaves node 0 with 1 inputs"):
        space.restrict({"normal": torch.tensor([[True] * 8, [False] * 8])})
    with pytest.raises(ConfigError, match="takes bool masks"):
        space.restrict({"normal": torch.ones(3, 8, dtype=torch.bool)})
    with pytest.raises(ConfigError, match="takes bool masks"):
        space.restrict({"other": torch.ones(2, 8, dtype=torch.bool)})
    narrow = space.restrict({"normal": torch.tensor([[False] * 7 + [True]] * 2)})
    with pytest.raises(ConfigError, match="only takes away"):
        narrow.restrict({"normal": torch.ones(2, 8, dtype=torch.bool)})
    with pytest.raises(ConfigError, match="conv_9x9"):
        DARTSSpace(nodes=1, allowed={"normal": [["conv_9x9"], list(OPERATIONS)]})
