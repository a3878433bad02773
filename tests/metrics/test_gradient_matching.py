"""Disagreement of gradients and the groups that it makes, against all partitions."""

from itertools import product

import pytest
import torch

from lightning_nas.metrics.gradient_matching import best_split, disagreement


def test_disagreement_is_one_minus_the_cosine() -> None:
    gradients = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]])
    found = disagreement(gradients)
    assert found[0].tolist() == pytest.approx([0.0, 0.0, 1.0, 2.0, 1 - 0.5**0.5])
    assert torch.allclose(found, found.T)
    one = torch.nn.functional.cosine_similarity(gradients[:, None], gradients[None], dim=2)
    assert torch.allclose(found, 1 - one.double(), atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_the_best_split_is_the_best_of_all(count: int) -> None:
    values = torch.rand(count, count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    values = values + values.T
    best = best_split(values)
    scores = []
    for sides in product((0, 1), repeat=count):
        if sum(sides) in (count // 2, count - count // 2):
            pairs = [(i, j) for i in range(count) for j in range(i) if sides[i] != sides[j]]
            scores.append(sum(float(values[i, j]) for i, j in pairs))
    assert best.score == pytest.approx(max(scores))
    first, second = best.groups
    assert sorted((*first, *second)) == list(range(count))
    assert len(first) == count // 2
    assert best.score == pytest.approx(sum(float(values[i, j]) for i in first for j in second))


def test_operations_that_agree_stay_together() -> None:
    gradients = torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.2]])
    assert best_split(disagreement(gradients)).groups == ((1, 3), (0, 2, 4))
