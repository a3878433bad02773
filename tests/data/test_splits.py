"""Splits are disjoint, stratified and repeatable."""

import pytest
import torch

from lightning_nas.data.splits import halves, stratified
from lightning_nas.errors import DataError


@pytest.mark.parametrize(("n", "fraction", "search"), [(24, 0.5, 12), (25, 0.5, 12), (40, 0.25, 10), (100, 0.29, 29)])
def test_halves_are_disjoint_stratified_and_of_their_lengths(n: int, fraction: float, search: int) -> None:
    labels = torch.arange(n) % 3
    parts = halves(labels, None, fraction, seed=0)
    assert len(parts[1]) == search
    assert len(parts[0]) == (search if fraction == 0.5 else n - search)
    assert not set(parts[0].tolist()) & set(parts[1].tolist())
    for part, share in zip(parts, (1 - fraction, fraction), strict=True):
        counts = torch.bincount(labels[part])
        assert float((counts - share * torch.bincount(labels)).abs().max()) <= 1
    again, other = halves(labels, None, fraction, seed=0), halves(labels, None, fraction, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(parts[1], other[1])


def test_dealing_follows_the_fraction_for_unequal_classes() -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 3)
    dealt = stratified(labels, 0.5, seed=4)
    assert int(dealt.sum()) == 30
    assert torch.bincount(labels[dealt]).tolist() in ([25, 3, 2], [25, 4, 1])


def test_groups_stay_together_and_every_class_is_in_both_halves() -> None:
    labels = torch.arange(4).repeat_interleave(30)
    groups = torch.arange(4 * 6).repeat_interleave(5)
    shuffle = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    labels, groups = labels[shuffle], groups[shuffle]
    train, search = halves(labels, groups, 0.5, seed=0)
    assert len(train) == len(search) == 60
    assert not set(groups[train].tolist()) & set(groups[search].tolist())
    assert torch.bincount(labels[train]).tolist() == torch.bincount(labels[search]).tolist() == [15] * 4


def test_groups_that_hold_every_class_are_dealt_whole() -> None:
    groups, labels = torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4)
    train, search = halves(labels, groups, 0.5, seed=0)
    assert len(set(groups[train].tolist())) == len(set(groups[search].tolist())) == 2
    assert len(train) == len(search) == 6


def test_a_half_without_a_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"classes \[\d\].*at least two"):
        halves(torch.tensor([0, 0, 1, 1, 2]), None, 0.5, seed=0)
    with pytest.raises(DataError, match="groups of images"):
        halves(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]), 0.5, seed=0)
