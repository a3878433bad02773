"""Sampled contributions against Shapley values by enumeration."""

from collections.abc import Sequence
from itertools import permutations

import pytest
import torch

from lightning_nas.errors import ConfigError
from lightning_nas.metrics.shapley import sampled_contributions

GAINS = {frozenset({0}): 1.0, frozenset({1}): 0.5, frozenset({0, 1}): -0.8, frozenset({1, 2}): 2.0, frozenset({3}): 0.0}


def game(sample: int, removed: Sequence[int]) -> float:
    """Gains of players and of pairs that are together."""
    return sum(gain for group, gain in GAINS.items() if not group & set(removed))


def exact() -> list[float]:
    totals = [0.0] * 4
    orders = list(permutations(range(4)))
    for order in orders:
        for place, player in enumerate(order):
            totals[player] += game(0, order[:place]) - game(0, order[: place + 1])
    return [total / len(orders) for total in totals]


def test_the_mean_of_many_orders_is_the_shapley_value() -> None:
    generator = torch.Generator().manual_seed(0)
    found = sampled_contributions(4, game, samples=4000, truncation=0.0, generator=generator)
    assert found.mean(0).tolist() == pytest.approx(exact(), abs=0.05)
    # what all contribute together is the value of all
    torch.testing.assert_close(found.sum(1), torch.full((4000,), game(0, ()), dtype=torch.float64))


def test_an_order_ends_below_the_truncation() -> None:
    calls: list[tuple[int, int]] = []

    def value(sample: int, removed: Sequence[int]) -> float:
        calls.append((sample, len(removed)))
        return 1.0 - 0.2 * len(removed)

    found = sampled_contributions(5, value, samples=2, truncation=0.5, generator=torch.Generator().manual_seed(1))
    assert calls == [(sample, removed) for sample in (0, 1) for removed in range(4)]
    torch.testing.assert_close(found.sort(1).values, torch.tensor([[0, 0, 0.2, 0.2, 0.2]] * 2, dtype=torch.float64))
    with pytest.raises(ConfigError, match="samples is 0"):
        sampled_contributions(5, value, samples=0, truncation=0.5, generator=torch.Generator())
