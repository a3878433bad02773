"""Shapley values of the parts of a whole, by sampling."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_nas.checks import integer_at_least, within


def sampled_contributions(
    players: int,
    value: Callable[[int, Sequence[int]], float],
    *,
    samples: int,
    truncation: float,
    generator: torch.Generator,
) -> Tensor:
    """Contributions ``(samples, players)`` of the players in random orders; their mean estimates the Shapley values.

    In every sample, the players are removed one after the other in a random order, and the contribution of a player is
    what the value falls by when it goes. Once the value is below ``truncation`` times the one of all players, all
    that are left contribute 0: the rest is hardly more than noise, and costs most of the time.

    References:
        1. Castro, Gómez, Tejada: Polynomial calculation of the Shapley value based on sampling, Computers & Operations
           Research 36(5), 2009
        2. Ghorbani, Zou: Data Shapley: Equitable Valuation of Data for Machine Learning, ICML 2019,
           https://arxiv.org/abs/1904.02868

    Args:
        players: Number of players.
        value: Computes the value of all players without some, given the number of the sample and those removed.
        samples: Number of random orders, at least 1.
        truncation: Fraction of the value of all players, in [0, 1]; 0 never truncates a value that is not negative.
        generator: Source of the orders, on the CPU.

    Raises:
        ConfigError: A number is out of its range.
    """
    integer_at_least(1, samples=samples)
    within("[0, 1]", truncation=truncation)
    found = torch.zeros(samples, players, dtype=torch.float64)
    for sample in range(samples):
        full = last = value(sample, ())
        removed: list[int] = []
        for player in torch.randperm(players, generator=generator).tolist():
            removed.append(player)
            present = value(sample, removed)
            found[sample, player] = last - present
            last = present
            if last < truncation * full:
                break
    return found
