"""Components against their formulas, written as loops."""

import math

import pytest
import torch
from torch import Tensor

from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.differentiable.attention.operation import OperationAttention
from lightning_nas.differentiable.discretization.joint_score import JointScore
from lightning_nas.differentiable.discretization.product_score import ProductScore
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax
from lightning_nas.differentiable.regularization.beta_decay import BetaDecay
from lightning_nas.differentiable.regularization.edge_variance import EdgeVariance
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace

SPACE = DARTSSpace(nodes=3)


@pytest.fixture
def alphas() -> Tensor:
    return torch.randn(SPACE.edges, 8, dtype=torch.float64)


@pytest.fixture
def edge_alphas() -> Tensor:
    return torch.randn(SPACE.edges, dtype=torch.float64)


def test_softmax(alphas: Tensor) -> None:
    found = Softmax(temperature=2.0).relax(alphas)
    for edge in range(SPACE.edges):
        total = sum(math.exp(a / 2) for a in alphas[edge].tolist())
        for o in range(8):
            assert found[edge, o].item() == pytest.approx(math.exp(alphas[edge, o].item() / 2) / total, abs=1e-12)
    with pytest.raises(ConfigError):
        Softmax(temperature=0)


def test_edge_softmax_normalises_over_the_edges_of_each_node(alphas: Tensor, edge_alphas: Tensor) -> None:
    mixture = EdgeSoftmax().normalize(alphas, edge_alphas, Softmax(), SPACE.nodes)
    for start, stop in ((0, 2), (2, 5), (5, 9)):
        total = sum(math.exp(b) for b in edge_alphas[start:stop].tolist())
        for edge in range(start, stop):
            share = math.exp(edge_alphas[edge].item()) / total
            assert mixture.edges[edge].item() == pytest.approx(share, abs=1e-12)
            torch.testing.assert_close(mixture.operations[edge], share * alphas[edge].softmax(0))


def test_joint_softmax_sums_to_one_a_node(alphas: Tensor) -> None:
    mixture = JointSoftmax().normalize(alphas, None, Softmax(), SPACE.nodes)
    for start, stop in ((0, 2), (2, 5), (5, 9)):
        expected = alphas[start:stop].exp() / alphas[start:stop].exp().sum()
        torch.testing.assert_close(mixture.operations[start:stop], expected)
        assert mixture.edges[start:stop].sum().item() == pytest.approx(1)


def test_beta_decay_is_the_mean_logsumexp_rising_with_the_epochs(alphas: Tensor) -> None:
    other = torch.randn_like(alphas)
    expected = sum(sum(math.log(sum(math.exp(v) for v in row)) for row in a.tolist()) / len(a) for a in (alphas, other))
    found = BetaDecay(weight=50).penalty({"normal": alphas, "reduce": other}, 0.4)
    assert found.item() == pytest.approx(50 * 0.4 * expected)
    assert BetaDecay().penalty({"normal": alphas}, 0.0) == 0


def test_edge_variance(alphas: Tensor) -> None:
    sizes = [math.sqrt(sum(v * v for v in row)) for row in alphas.tolist()]
    mean = sum(sizes) / len(sizes)
    expected = sum((s - mean) ** 2 for s in sizes) / len(sizes)
    assert EdgeVariance(weight=3).penalty({"normal": alphas}, 0.5).item() == pytest.approx(3 * expected)
    zeros = torch.zeros(4, 3, requires_grad=True)
    EdgeVariance().penalty({"normal": zeros}, 0.5).backward()
    assert torch.isfinite(zeros.grad).all()


def test_channel_gate_is_one_at_the_start_and_broadcasts() -> None:
    gate = ChannelAttention(kernel_size=3).channel_gate(6)
    x = torch.randn(2, 6, 5, 4)
    assert torch.equal(gate(x), torch.ones(2, 6, 1, 1))
    gate.conv.weight.data = torch.tensor([[[0.5, 1.0, -0.25]]])
    pooled = torch.nn.functional.pad(x.mean((2, 3)), (1, 1))
    expected = 2 * torch.sigmoid(0.5 * pooled[:, :-2] + pooled[:, 1:-1] - 0.25 * pooled[:, 2:])
    torch.testing.assert_close(gate(x)[:, :, 0, 0], expected)
    with pytest.raises(ConfigError):
        ChannelAttention(kernel_size=2)


def test_operation_scores() -> None:
    scores = OperationAttention(temperature=0.5).operation_scores(4, 3)
    pooled = torch.randn(2, 5, 3, 4)
    assert torch.equal(scores(pooled), torch.zeros(2, 5, 3))
    scores.query.data = torch.tensor([1.0, -1.0, 0.0, 2.0])
    torch.testing.assert_close(scores(pooled), 2 * (pooled[..., 0] - pooled[..., 1] + 2 * pooled[..., 3]))


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
