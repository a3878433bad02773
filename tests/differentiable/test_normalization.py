"""Normalizations against their formulas, written as loops."""

import math

import pytest
import torch
from torch import Tensor

from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.spaces.darts.space import DARTSSpace

SPACE = DARTSSpace(nodes=3)


@pytest.fixture
def alphas() -> Tensor:
    return torch.randn(SPACE.edges, 8, dtype=torch.float64)


@pytest.fixture
def edge_alphas() -> Tensor:
    return torch.randn(SPACE.edges, dtype=torch.float64)


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
