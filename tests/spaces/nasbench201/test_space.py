"""The NAS-Bench-201 space."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

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
from lightning_nas.spaces.convert import to_per_edge
from lightning_nas.spaces.nasbench201.network import CELL_OPERATIONS
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.supernet import Mixture

# PyTorch sets a variable of its compiler at the first step of an optimizer; not in the middle of a test
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()
OPERATIONS = tuple(CELL_OPERATIONS)
EDGES = [(node, source) for node in range(1, 4) for source in range(node)]
TEXT = "|avg_pool_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
SMALL = {"num_classes": 5, "image_shape": (3, 8, 8)}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


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
        ({"operations": ()}, "empty"),
        ({"operations": ("none", "none")}, "more than once"),
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
    with pytest.raises(ConfigError, match="can only remove"):
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

    def losses(mixtures: Any, batch: int) -> torch.Tensor:
        removed = 0.2 - mixtures["cell"].operations
        return removed[range(6), truth.choices].sum().expand(4)

    found = selection_errors(space, truth, {"cell": mixture}, losses, batches=1)
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
    state = to_per_edge(supernet)
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
