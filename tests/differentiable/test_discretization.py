"""Discretizers against their formulas, and what they choose."""

from collections.abc import Mapping
from itertools import product

import pytest
import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.differentiable.discretization.joint_score import JointScore
from lightning_nas.differentiable.discretization.product_score import ProductScore
from lightning_nas.differentiable.discretization.sigmoid_score import SigmoidScore
from lightning_nas.differentiable.discretization.skip_cap import SkipCap
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.discretization.within_constraints import WithinConstraints
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.cost import CostSource
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space

SPACE = DARTSSpace(nodes=3)


@pytest.fixture
def alphas() -> Tensor:
    return torch.randn(SPACE.edges, 8, dtype=torch.float64)


@pytest.fixture
def edge_alphas() -> Tensor:
    return torch.randn(SPACE.edges, dtype=torch.float64)


def test_discretizers_disagree_where_edges_are_not_comparable() -> None:
    """The case that makes selection errors: a strong edge with many good operations, a weak one with a single one."""
    space = DARTSSpace(nodes=2)
    alphas = torch.full((space.edges, 8), -3.0)
    alphas[2] = torch.tensor([1.8, 1.9, 1.9, 1.9, 2.0, 1.9, 1.9, 1.9])  # edge A: all strong, softmax flat
    alphas[3, 1] = 1.0
    alphas[4, 3] = 0.5  # edge B: weak, softmax sharp
    both = {"normal": alphas, "reduce": alphas}
    assert [e for e, _ in space.chosen(SoftmaxScore().discretize(both, {}, space))["normal"]][2:] == [3, 4]
    assert [e for e, _ in space.chosen(JointScore().discretize(both, {}, space))["normal"]][2:] == [2, 3]
    edges = torch.zeros(space.edges)
    edges[2] = 4.0
    chosen = space.chosen(ProductScore().discretize(both, {"normal": edges, "reduce": edges}, space))
    assert [e for e, _ in chosen["normal"]][2:] == [2, 3]


def test_product_score_is_the_published_product(alphas: Tensor, edge_alphas: Tensor) -> None:
    found = ProductScore().scores(alphas, edge_alphas, SPACE.nodes)
    expected = EdgeSoftmax().normalize(alphas, edge_alphas, Softmax(), SPACE.nodes).operations
    torch.testing.assert_close(found, expected)


def test_the_sigmoid_score_keeps_the_two_edges_with_the_largest_sigmoids() -> None:
    """The softmax, which compares within an edge, would keep other edges."""
    space = DARTSSpace(nodes=2, operations=("none", "skip_connect", "sep_conv_3x3"))
    alphas = torch.full((5, 3), -3.0)
    alphas[2] = torch.tensor([9.0, 1.0, 0.9])  # `none` takes no part
    alphas[3] = torch.tensor([-9.0, -1.0, -9.0])  # clear within its edge, but small
    alphas[4] = torch.tensor([-9.0, 20.0, 30.0])  # both are 1 in single precision
    found = SigmoidScore().discretize({"normal": alphas, "reduce": alphas}, {}, space)
    assert "('skip_connect', 0), ('sep_conv_3x3', 2)" in space.text(found)
    assert SigmoidScore().discretize({"normal": alphas, "reduce": alphas}, {}, space) != SoftmaxScore().discretize(
        {"normal": alphas, "reduce": alphas}, {}, space
    )


def capped(alphas: Tensor, most: int) -> set[tuple[int, int, str]]:
    """By hand: every node keeps the two edges with the largest shares; the weakest skip connections go one by one."""
    names = DARTSSpace().operations
    shares = alphas.softmax(1).tolist()
    given_up: set[int] = set()
    while True:
        kept = []
        for node, start in enumerate((0, 2, 5, 9)):
            best = []
            for edge in range(start, start + 2 + node):
                options = [o for o in range(1, 8) if names[o] != "skip_connect" or edge not in given_up]
                operation = max(options, key=lambda o: shares[edge][o])  # noqa: B023  # used at once
                best.append((shares[edge][operation], edge, operation))
            kept += sorted(best, reverse=True)[:2]
        skips = [(share, edge) for share, edge, operation in kept if names[operation] == "skip_connect"]
        if len(skips) <= most:
            return {(edge, operation, names[operation]) for _, edge, operation in kept}
        given_up.add(min(skips)[1])


@pytest.mark.parametrize("most", [0, 2, 4])
def test_the_weakest_skips_of_the_normal_cell_are_given_up(most: int) -> None:
    space = DARTSSpace()
    column = space.operations.index("skip_connect")
    limited = 0
    for seed in range(20):
        torch.manual_seed(seed)
        alphas = {name: torch.randn(14, 8, dtype=torch.float64) for name in space.cell_types}
        for a in alphas.values():
            a[:, column] += 1.0
        before = {name: a.clone() for name, a in alphas.items()}
        free, found = (space.chosen(d.discretize(alphas, {}, space)) for d in (SoftmaxScore(), SkipCap(most)))
        assert {(e, o, space.operations[o]) for e, o in found["normal"]} == capped(alphas["normal"], most)
        assert sum(o == column for _, o in found["normal"]) <= most
        assert found["reduce"] == free["reduce"]
        limited += found["normal"] != free["normal"]
        assert all(torch.equal(a, before[name]) for name, a in alphas.items())
    assert limited > 5


def test_a_limit_that_a_space_cannot_keep_is_refused() -> None:
    SkipCap(0).check(DARTSSpace(), Softmax())
    SkipCap(1, cell_type="cell").check(NASBench201Space(), Softmax())
    few = {"normal": [["skip_connect"]] * 2 + [["skip_connect", "sep_conv_3x3"]] * 3}
    SkipCap(2).check(DARTSSpace(nodes=2, allowed=few), Softmax())
    with pytest.raises(ConfigError, match="at least 2"):
        SkipCap(1).check(DARTSSpace(nodes=2, allowed=few), Softmax())
    with pytest.raises(ConfigError, match="'cell'"):
        SkipCap(1, cell_type="cell").check(DARTSSpace(), Softmax())
    with pytest.raises(ConfigError, match="leave SkipCap out"):
        SkipCap().check(DARTSSpace(operations=("none", "sep_conv_3x3")), Softmax())
    with pytest.raises(ConfigError, match="at least 0"):
        SkipCap(-1)
    assert SkipCap(discretizer=ProductScore()).edge_alphas


class Convolutions(CostSource):
    """Counts the operations of a cell that are not the first one."""

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        return {"convolutions": float(sum(choice > 0 for choice in architecture.choices))}


CELLS = NASBench201Space(("skip_connect", "nor_conv_1x1", "nor_conv_3x3"))


@pytest.mark.parametrize("bound", [0.5, 1.0, 3.0, 6.0])
def test_no_single_change_is_better_within_the_constraints(bound: float) -> None:
    costs = Convolutions()
    limited = WithinConstraints(SoftmaxScore(), costs=costs, constraints={"convolutions": bound})
    best = 0
    for _ in range(10):
        alphas = {"cell": torch.randn(6, 3)}
        scores = alphas["cell"].softmax(1)

        def total(choices: tuple[int, ...]) -> float:
            return sum(float(scores[edge, choice]) for edge, choice in enumerate(choices))  # noqa: B023  # used at once

        found = limited.discretize(alphas, {}, CELLS)
        assert costs.costs(found)["convolutions"] <= bound
        allowed = [each for each in product(range(3), repeat=6) if sum(choice > 0 for choice in each) <= bound]
        near = [each for each in allowed if sum(a != b for a, b in zip(each, found.choices, strict=True)) == 1]
        assert total(tuple(found.choices)) >= max(map(total, near), default=0.0)
        best += total(tuple(found.choices)) == pytest.approx(max(map(total, allowed)))
        if bound == 6:
            assert found == SoftmaxScore().discretize(alphas, {}, CELLS)
    assert best >= 8  # a local optimum is nearly always the optimum here


def test_without_constraints_the_other_discretizer_decides(alphas: Tensor) -> None:
    both = {"normal": alphas, "reduce": alphas}
    limited = WithinConstraints(SoftmaxScore(), costs=Convolutions(), constraints={})
    assert limited.discretize(both, {}, SPACE) == SoftmaxScore().discretize(both, {}, SPACE)


def test_constraints_that_cannot_be_kept() -> None:
    convolutions = NASBench201Space(("nor_conv_1x1", "nor_conv_3x3"))

    class Large(CostSource):
        def costs(self, architecture: Architecture) -> Mapping[str, float]:
            return {"size": 2.0}

    impossible = WithinConstraints(SoftmaxScore(), costs=Large(), constraints={"size": 1.0})
    with pytest.raises(ConfigError, match="no change of one of its operations comes closer"):
        impossible.discretize({"cell": torch.randn(6, 2)}, {}, convolutions)
    unknown = WithinConstraints(SoftmaxScore(), costs=Large(), constraints={"watts": 1.0})
    with pytest.raises(ConfigError, match="constraints name watts"):
        unknown.check(convolutions, Softmax())
