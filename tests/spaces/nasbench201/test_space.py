"""The NAS-Bench-201 space; its batched cell equals one module an edge."""

import copy
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.differentiable.attention.operation import OperationAttention
from lightning_nas.differentiable.discretization.joint_score import JointScore
from lightning_nas.differentiable.discretization.product_score import ProductScore
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.export.network import export_network
from lightning_nas.metrics.cost import macs, parameters
from lightning_nas.metrics.selection import selection_errors
from lightning_nas.spaces.artifact import architecture_from_dict
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import Mixture
from lightning_nas.spaces.nasbench201.network import CELL_OPERATIONS
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.nasbench201.supernet import NASBench201MixedCell, per_edge_entries
from tests.spaces.pair import reference

# PyTorch sets a variable of its compiler at the first step of an optimizer; not in the middle of a test
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()
OPERATIONS = tuple(CELL_OPERATIONS)
EDGES = [(node, source) for node in range(1, 4) for source in range(node)]
TEXT = "|avg_pool_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
SMALL = {"num_classes": 5, "image_shape": (3, 8, 8)}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# The space.


def test_text_makes_the_round_trip() -> None:
    space = NASBench201Space()
    architecture = space.parse(TEXT)
    assert architecture.choices == (4, 0, 3, 1, 2, 0)
    assert space.text(architecture) == space.key(architecture) == TEXT
    assert architecture_from_dict(architecture.to_dict()) == architecture
    (graph,) = space.graphs(architecture)
    edges = [(0, 1, "avg_pool_3x3"), (1, 2, "nor_conv_3x3"), (0, 3, "skip_connect"), (1, 3, "nor_conv_1x1")]
    assert list(graph.edges) == edges
    assert space.chosen(architecture) == {"cell": [(0, 4), (1, 0), (2, 3), (3, 1), (4, 2), (5, 0)]}


@pytest.mark.parametrize(
    "text", ["", "none", TEXT[:-3], TEXT.replace("~1", "~2"), TEXT.replace("none", "max_pool_3x3"), TEXT + "|none~3|"]
)
def test_what_is_no_cell_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError, match="NAS-Bench-201"):
        NASBench201Space.parse(text)


def test_samples_are_uniform_over_all_that_is_allowed() -> None:
    space = NASBench201Space(("none", "skip_connect", "nor_conv_1x1"))
    restricted = space.restrict({"cell": torch.tensor([[1, 1, 1]] + [[1, 0, 1]] * 2 + [[0, 1, 0]] * 3).bool()})
    generator = torch.Generator().manual_seed(0)
    counts = Counter(restricted.key(restricted.sample(generator)) for _ in range(3000))
    assert len(counts) == 12
    # five standard deviations of a binomial count
    assert max(abs(c - 250) for c in counts.values()) < 5 * 250**0.5
    assert {len(set(space.neighbours(restricted.sample(generator)))) for _ in range(3)} == {12}
    near = list(restricted.neighbours(restricted.largest()))
    assert len(set(near)) == 4
    assert restricted.mutate(restricted.largest(), generator) in near
    # both spaces have the same architectures, but one takes fewer
    assert restricted.spec() == space.spec()
    with pytest.raises(ArchitectureError, match="Edge 3"):
        restricted.check(space.largest())
    assert space.largest().choices == (2,) * 6
    assert restricted.largest().choices == (2, 2, 2, 1, 1, 1)
    assert restricted.select({"cell": torch.tensor([3.0, 2, 1]).expand(6, -1)}).choices == (0, 0, 0, 1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"operations": ("none", "conv")}, "conv"),
        ({"operations": ()}, "Operations"),
        ({"operations": ("none", "none")}, "twice"),
        ({"channels": 0}, "channels"),
        ({"cells_per_stage": 0}, "cells_per_stage"),
        ({"allowed": {"cell": [["none"]] * 5 + [[]]}}, r"\[5\]"),
        ({"allowed": {"cell": [["none"]] * 5}}, "5 edges"),
        ({"allowed": {"normal": [["none"]] * 6}}, "normal"),
    ],
)
def test_impossible_spaces_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        NASBench201Space(**arguments)


def test_restricting_only_takes_away() -> None:
    space = NASBench201Space(allowed={"cell": [["none", "nor_conv_3x3"]] * 6})
    with pytest.raises(ConfigError, match="only takes away"):
        space.restrict({"cell": torch.ones(6, 5, dtype=torch.bool)})
    assert space.restrict({}).allowed["cell"].equal(space.allowed["cell"])


@pytest.mark.parametrize("discretizer", [SoftmaxScore(), JointScore(), ProductScore()])
def test_discretizers_take_the_best_of_every_edge(discretizer: Any) -> None:
    space = NASBench201Space()
    truth = space.parse(TEXT)
    alphas = 0.01 * torch.randn(6, 5)
    alphas[range(6), truth.choices] += 3
    assert discretizer.discretize({"cell": alphas}, {"cell": torch.zeros(6)}, space) == truth


@pytest.mark.parametrize("normalization", [EdgeSoftmax(), JointSoftmax()])
def test_normalizations_weight_its_nodes(normalization: Any) -> None:
    space = NASBench201Space(channels=3, cells_per_stage=1)
    alphas = torch.randn(6, 5, requires_grad=True)
    mixture = normalization.normalize(alphas, torch.randn(6), Softmax(), space.nodes)
    for node in space.nodes:
        assert float(mixture.operations[node].detach().sum()) == pytest.approx(1)
    logits = space.supernet(**SMALL)(torch.randn(2, 3, 8, 8), {"cell": mixture})
    assert torch.autograd.grad(logits.square().sum(), alphas)[0].any(1).all()


def test_selection_errors_judge_operations_alone() -> None:
    space = NASBench201Space()
    truth = space.parse(TEXT)
    mixture = Mixture(torch.full((6, 5), 0.2), torch.ones(6))

    def loss(mixtures: Any) -> float:
        removed = 0.2 - mixtures["cell"].operations
        return float(removed[range(6), truth.choices].sum())

    found = selection_errors(space, truth, {"cell": mixture}, loss)
    assert found.rate("edges") is None
    assert found.rate("operations") == 0
    assert len(found.selections) == 6


# The network.


def table() -> Any:
    folder = os.environ.get("LIGHTNING_NAS_DATA")
    if not folder:
        pytest.skip("LIGHTNING_NAS_DATA is not set; it names the folder of nasbench201.npz")
    return np.load(Path(folder) / "nasbench201.npz")


@pytest.mark.data
def test_all_cells_have_the_published_number_of_parameters() -> None:
    known = table()
    space = NASBench201Space()
    order = [OPERATIONS.index(str(name)) for name in known["op_names"]]
    choices = np.array(order)[known["ops"]]
    assert [space.text(space.architecture(c)) for c in choices[:200].tolist()] == known["arch"][:200].tolist()
    # what an operation has in all fifteen cells; the rest is the cell of none
    options = {"image_shape": (3, 32, 32)}
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        bare = parameters(space.network(space.architecture([0] * 6), num_classes=classes, **options))
        own = [
            sum(5 * sum(p.numel() for p in CELL_OPERATIONS[op](c).parameters()) for c in (16, 32, 64))
            for op in OPERATIONS
        ]
        # the table rounds to one
        assert np.abs(bare + np.array(own)[choices].sum(1) - known[f"{name}_params"]).max() <= 1
        for row in range(0, len(choices), 640):
            network = space.network(space.architecture(choices[row].tolist()), num_classes=classes, **options)
            assert abs(parameters(network) - known[f"{name}_params"][row]) <= 1


@pytest.mark.data
def test_multiply_accumulates_are_the_published_ones() -> None:
    known = table()
    space = NASBench201Space()
    for row in range(0, 15625, 3125):
        architecture = space.parse(str(known["arch"][row]))
        network = space.network(architecture, num_classes=10, image_shape=(3, 32, 32))
        assert macs(network, (3, 32, 32)) / 1e6 == pytest.approx(float(known["cifar10_flops"][row]), rel=0.02)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 9), (2, 4, 7)])
def test_any_size_and_channel_count_passes(shape: tuple[int, int, int]) -> None:
    space = NASBench201Space(channels=4, cells_per_stage=1)
    x = torch.randn(2, *shape)
    mixture = Mixture(torch.full((6, 5), 1 / 5), torch.ones(6))
    assert space.supernet(num_classes=5, image_shape=shape)(x, {"cell": mixture}).shape == (2, 5)
    for choices in ([0] * 6, [0, 1, 2, 3, 4, 0]):
        network = space.network(
            space.architecture(choices), num_classes=5, image_shape=shape, channels=4, cells=1, auxiliary=False
        )
        assert torch.isfinite(network(x)).all()


def test_what_the_skeleton_lacks_is_refused() -> None:
    space = NASBench201Space()
    with pytest.raises(ConfigError, match="auxiliary"):
        space.network(space.largest(), **SMALL, auxiliary=True)
    with pytest.raises(DataError, match="at least 4x4"):
        space.supernet(num_classes=5, image_shape=(3, 3, 8))
    with pytest.raises(ArchitectureError, match="expected"):
        space.network(NASBench201Space(("none", "skip_connect")).largest(), **SMALL)


def test_the_network_is_exported(tmp_path: Path) -> None:
    space = NASBench201Space()
    network = space.network(space.parse(TEXT), **SMALL, channels=4, cells=1)
    names = [str(i) for i in range(5)]
    exported = export_network(
        network, tmp_path, image_shape=(3, 8, 8), class_names=names, mean=[0.5] * 3, std=[0.2] * 3, header=TEXT
    )
    assert exported.difference <= 1e-6


def test_one_operation_an_edge_is_the_architectures_own_function() -> None:
    space = NASBench201Space(channels=4, cells_per_stage=1)
    architecture = space.parse(TEXT)
    supernet = space.supernet(**SMALL).double()
    network = space.network(architecture, **SMALL, channels=4, cells=1).double()
    state = to_public(supernet)
    own = dict(network.state_dict())
    for name in own:
        parts = name.split(".")
        if ".nodes." in name:
            node, slot = int(parts[3]), int(parts[4])
            # edges with none are left out of the ordinary network
            kept = [s for (to, s), c in zip(EDGES, architecture.choices, strict=True) if to == node + 1 and c]
            edge = EDGES.index((node + 1, kept[slot]))
            public = f"cells.{parts[1]}.edges.{node + 1}<-{kept[slot]}.{architecture.choices[edge]}."
            own[name] = state.get(public + ".".join(parts[5:]), own[name])
        else:
            own[name] = supernet.state_dict()[name]
    network.load_state_dict(own)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    mixture = space.to_path(architecture)["cell"]
    close(supernet(x, {"cell": mixture._replace(operations=mixture.operations.double())}), network(x))


# The supernet.


def to_public(supernet: nn.Module) -> dict[str, Tensor]:
    """The state in the public naming."""
    own = supernet.state_dict()
    return {
        public: own[name].reshape(full)[part].reshape(shape)
        for public, name, full, part, shape in per_edge_entries(supernet)
    }


def from_public(state: dict[str, Tensor], supernet: nn.Module) -> None:
    """Load a state in the public naming; what it has beside that is no part of a restricted space."""
    own = {name: value.clone(memory_format=torch.contiguous_format) for name, value in supernet.state_dict().items()}
    for public, name, full, part, _ in per_edge_entries(supernet):
        target = own[name].view(full)[part]
        target.copy_(state[public].view(target.shape))
    supernet.load_state_dict(own)


class Ours(nn.Module):
    """The library's supernet, called as the reference is; ``mask`` says what is computed."""

    def __init__(self, net: nn.Module, mask: Tensor | None = None, *, restricted: bool = False) -> None:
        super().__init__()
        self.net = net
        self.mask = mask
        self.restricted = restricted

    def forward(self, x: Tensor, alphas: dict[str, Tensor], betas: None = None) -> Tensor:
        factors = alphas["cell"].softmax(1)
        if self.mask is not None:
            factors = factors * self.mask
        active = None if self.restricted else self.mask
        logits: Tensor = self.net(x, {"cell": Mixture(factors, factors.new_ones(6), active)})
        return logits


class Masked(nn.Module):
    """The reference, in which only some operations are called."""

    def __init__(self, net: nn.Module, mask: Tensor | None) -> None:
        super().__init__()
        self.net = net
        self.mask = mask
        for edge, (node, source) in enumerate(EDGES):
            for cell in net.cells:
                for i, operation in enumerate([] if cell.reduction else cell.edges[f"{node}<-{source}"]):
                    if mask is not None and not mask[edge, i]:
                        operation.forward = torch.zeros_like  # type: ignore[method-assign]

    def forward(self, x: Tensor, alphas: dict[str, Tensor], betas: None = None) -> Tensor:
        factors = alphas["cell"].softmax(1)
        logits: Tensor = self.net.mixed(x, {"cell": factors if self.mask is None else factors * self.mask})
        return logits


class Pair:
    """The library's supernet and the reference with the same weights."""

    def __init__(
        self,
        size: tuple[int, int] = (8, 8),
        mask: Tensor | None = None,
        *,
        restricted: bool = False,
        dtype: torch.dtype = torch.float64,
        operations: tuple[str, ...] = OPERATIONS,
        cells: int = 1,
    ) -> None:
        space = NASBench201Space(operations, channels=3, cells_per_stage=cells)
        if restricted and mask is not None:
            space = space.restrict({"cell": mask})
        self.net = space.supernet(**SMALL).to(dtype)
        plain = reference.NB201Network(3, 5, cells, operations).to(dtype)
        # statistics are never those of a fresh net
        for name, b in plain.named_buffers():
            if name.endswith("running_var"):
                b.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                b.normal_()
        from_public(plain.state_dict(), self.net)
        self.ours = Ours(self.net, mask, restricted=restricted)
        self.plain = Masked(plain, mask)
        self.alphas = {"cell": torch.randn(6, len(operations), dtype=dtype).requires_grad_()}
        self.x = torch.randn(4, 3, *size, dtype=dtype)
        self.y = torch.randint(5, (4,))

    def loss(self, net: nn.Module) -> Tensor:
        return F.cross_entropy(net(self.x, self.alphas), self.y)

    def check(self) -> None:
        """Outputs, gradients of all weights and alphas, statistics."""
        close(self.ours(self.x, self.alphas), self.plain(self.x, self.alphas))
        grads = []
        for net in (self.ours, self.plain):
            self.alphas["cell"].grad = None
            net.zero_grad()
            self.loss(net).backward()
            grads.append(self.alphas["cell"].grad)
        close(*grads)
        of_weights = copy.deepcopy(self.net)
        with torch.no_grad():
            for p, own in zip(of_weights.parameters(), self.net.parameters(), strict=True):
                p.copy_(torch.zeros_like(p) if own.grad is None else own.grad)
        named = to_public(of_weights)
        for name, p in self.plain.net.named_parameters():
            if name in named or not self.ours.restricted:
                close(named[name], torch.zeros_like(p) if p.grad is None else p.grad)
        self.check_state()

    def check_state(self) -> None:
        state, expected = to_public(self.net), self.plain.net.state_dict()
        assert set(state) <= set(expected)
        assert self.ours.restricted or set(state) == set(expected)
        for name, value in state.items():
            close(value.double(), expected[name].double())


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (6, 5)])
def test_equals_reference(size: tuple[int, int]) -> None:
    Pair(size).check()


def test_two_cells_a_stage_in_eval_mode() -> None:
    pair = Pair(cells=2)
    pair.ours.eval()
    pair.plain.eval()
    pair.check()


@pytest.mark.parametrize(
    "operations",
    [("skip_connect", "none"), ("nor_conv_3x3",), ("avg_pool_3x3", "nor_conv_1x1"), tuple(reversed(OPERATIONS))],
)
def test_subsets_of_operations(operations: tuple[str, ...]) -> None:
    Pair((6, 6), operations=operations).check()


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_random_subsets_an_edge(density: float, restricted: bool) -> None:
    mask = torch.rand(6, 5) < density
    mask[~mask.any(1), 0] = True
    Pair((6, 6), mask, restricted=restricted).check()
    pair = Pair((6, 6), mask, restricted=restricted)
    pair.ours.eval()
    pair.plain.eval()
    pair.check()


def test_active_part_of_a_restricted_space() -> None:
    mask = torch.rand(6, 5) < 0.7
    mask[:, 0] = True
    pair = Pair((5, 5), mask, restricted=True)
    active = mask & (torch.rand(6, 5) < 0.6)
    factors = (torch.rand(6, 5, dtype=torch.float64) * active).requires_grad_()
    other = Masked(pair.plain.net, active)
    mixture = Mixture(factors, factors.new_ones(6), active)
    results = [pair.net(pair.x, {"cell": mixture}), other.net.mixed(pair.x, {"cell": factors})]
    close(*results)
    close(*(torch.autograd.grad(out.square().sum(), factors)[0] * active for out in results))
    pair.check_state()


def test_no_weights_are_stored_for_what_an_edge_may_not_take() -> None:
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, 1] = True
    mask[2, 3] = mask[3, 2] = True
    net = NASBench201Space(channels=3, cells_per_stage=1).restrict({"cell": mask}).supernet(**SMALL)
    cell = net.cells[0]
    assert sum(p.numel() for p in cell.parameters()) == 3 * 3 * 9 + 3 * 3
    convolutions = sorted(name for name in to_public(net) if "cells.0" in name and name.endswith("weight"))
    assert convolutions == ["cells.0.edges.2<-1.3.op.1.weight", "cells.0.edges.3<-0.2.op.1.weight"]


def test_ten_bilevel_steps() -> None:
    pair = Pair((8, 8), operations=OPERATIONS[1:])
    other = copy.deepcopy(pair.alphas)
    setups = []
    for net, alphas in ((pair.ours, pair.alphas), (pair.plain, other)):
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
    pair = Pair((6, 6))
    train, search = ((torch.randn_like(pair.x), torch.randint(5, (4,))) for _ in range(2))
    results = []
    for net in (pair.ours, pair.plain):
        sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
        results += reference.second_order_gradient(net, pair.alphas, None, train, search, sgd, exact, radius=1e-6)
    # differences divide rounding by their radius
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9 if exact else 1e-6)
    pair.check_state()


class _WeightGradients(TorchDispatchMode):
    """Counts gradients of the weights of 3x3 convolutions."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default and args[-1][1] and args[2].shape[-2] > 1:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_each_phase_computes_its_own_gradients_alone() -> None:
    pair = Pair((8, 8), dtype=torch.float32)
    loss = pair.loss(pair.ours)
    with _WeightGradients() as counter:
        torch.autograd.grad(loss, pair.alphas["cell"])
    assert counter.count == 0
    pair.alphas = {"cell": pair.alphas["cell"].detach()}
    loss = pair.loss(pair.ours)
    with _WeightGradients() as counter:
        loss.backward()
    # the stem, one an inner state of each cell, two a residual block
    assert counter.count == 1 + 3 * 3 + 2 * 2


def test_the_first_weights_are_spread_as_a_convolution_draws_them() -> None:
    own = to_public(NASBench201Space(cells_per_stage=1).supernet(**SMALL))
    plain = reference.NB201Network(16, 5, 1).state_dict()
    assert {name: v.shape for name, v in own.items()} == {name: v.shape for name, v in plain.items()}
    for name in ("cells.0.edges.3<-1.3.op.1.weight", "cells.0.edges.2<-1.2.op.1.weight"):
        assert float(own[name].abs().max()) == pytest.approx(float(plain[name].abs().max()), rel=0.05)


class BothAttentions(Attention):
    """A gate and scores at once."""

    def channel_gate(self, channels: int) -> nn.Module:
        return ChannelAttention().channel_gate(channels)

    def operation_scores(self, channels: int, operations: int) -> nn.Module:
        return OperationAttention(0.5).operation_scores(channels, operations)


def plain_cell(cell: NASBench201MixedCell, edges: Any, x: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Attention on every edge by itself, from its definition."""
    states, entering, row = [x], [], 0
    for node in range(1, 4):
        entering.append(states[-1] * cell.gates[node - 1](states[-1]) if len(cell.gates) else states[-1])
        total: Tensor | float = 0.0
        for source in range(node):
            outputs = [
                operation(entering[source]) if on else torch.zeros_like(x)
                for operation, on in zip(edges[f"{node}<-{source}"], mask[row], strict=True)
            ]
            factors = weights[row].expand(len(x), -1)
            if cell.scores is not None:
                pooled = torch.stack([y.mean((2, 3)) for y in outputs], dim=1).unsqueeze(1)
                changed = factors * cell.scores(pooled).squeeze(1).exp()
                factors = changed / changed.sum(1, keepdim=True) * factors.sum(1, keepdim=True)
            total = total + sum(f[:, None, None, None] * y for f, y in zip(factors.unbind(1), outputs, strict=True))
            row += 1
        states.append(total)
    return states[-1]


@pytest.mark.parametrize("attention", [ChannelAttention(), OperationAttention(), BothAttentions()])
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_attention(attention: Attention, density: float) -> None:
    plain = reference.NB201Network(3, 5, 1).double()
    net = NASBench201Space(channels=3, cells_per_stage=1).supernet(**SMALL, attention=attention).double()
    from_public(plain.state_dict(), net)
    for name, p in net.named_parameters():
        if "gates" in name or "scores" in name:
            nn.init.normal_(p)
    mask = torch.rand(6, 5) <= density
    mask[:, 3] = True
    factors = (torch.rand(6, 5, dtype=torch.float64) * mask).requires_grad_()
    cell = net.cells[2]  # of the second stage
    x = torch.randn(3, 6, 7, 6, dtype=torch.float64, requires_grad=True)
    rows = [[0, 1, 3], [2, 4], [5]]
    columns = [{name: factors[row, i] for i, name in enumerate(OPERATIONS)} for row in rows]
    results = []
    for out in (
        cell(x, columns, [None if density == 1 else mask[row].tolist() for row in rows]),
        plain_cell(cell, plain.cells[2].edges, x, factors, mask),
    ):
        inputs = [x, factors, *cell.gates.parameters(), *(cell.scores.parameters() if cell.scores else ())]
        grads = torch.autograd.grad(out.square().mean(), inputs)
        results.append([out, grads[0], grads[1] * mask, *grads[2:]])
    for a, b in zip(*results, strict=True):
        close(a, b)


def test_an_edge_switched_off_stays_off_under_attention() -> None:
    net = NASBench201Space(channels=3, cells_per_stage=1).supernet(**SMALL, attention=OperationAttention())
    factors = torch.rand(6, 5)
    factors[0] = 0
    factors.requires_grad_()
    out = net(torch.randn(2, 3, 8, 8), {"cell": Mixture(factors, torch.ones(6))})
    assert torch.isfinite(torch.autograd.grad(out.sum(), factors)[0]).all()


def test_autocast() -> None:
    pair = Pair((8, 8), dtype=torch.float32)
    pair.ours.eval()
    exact = pair.ours(pair.x, pair.alphas)
    pair.ours.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pair.loss(pair.ours)
        logits = pair.ours.eval()(pair.x, pair.alphas)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in pair.ours.parameters())
    assert logits.shape == exact.shape
    assert torch.isfinite(logits).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    pair = Pair()
    results = []
    for device in ("cpu", "cuda"):
        pair.ours.to(device)
        alphas = {"cell": pair.alphas["cell"].detach().to(device).requires_grad_()}
        out = pair.ours(pair.x.to(device), alphas)
        results.append([out.cpu(), torch.autograd.grad(out.square().sum(), alphas["cell"])[0].cpu()])
    for a, b in zip(*results, strict=True):
        close(a, b)


def test_two_paths_make_one_backward_pass() -> None:
    """The first takes all 3x3 convolutions from a node, the second some: both move the same running statistics."""
    space = NASBench201Space(channels=4, cells_per_stage=1)
    supernet = space.supernet(**SMALL).train()
    texts = (
        "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_3x3~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|",
        "|skip_connect~0|+|avg_pool_3x3~0|nor_conv_3x3~1|+|skip_connect~0|skip_connect~1|nor_conv_3x3~2|",
    )
    images = torch.randn(4, 3, 8, 8)
    losses = [supernet(images, space.to_path(space.parse(text))).square().mean() for text in texts]
    torch.stack(losses).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in supernet.parameters() if p.grad is not None)
