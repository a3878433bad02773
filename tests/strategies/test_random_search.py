"""Random search draws uniformly."""

from collections import Counter

from lightning_nas.strategies.random_search import RandomSearch
from tests.strategies.rugged import TWO, searched


def test_random_search_draws_every_architecture_once_and_uniformly() -> None:
    found = searched(RandomSearch(), 100, space=TWO)
    assert len(found) == len(set(found)) == 64
    firsts = Counter(searched(RandomSearch(), 1, space=TWO, seed=seed)[0] for seed in range(640))
    assert len(firsts) == 64
    chi2 = sum((firsts[a] - 10) ** 2 / 10 for a in found)
    assert chi2 < 63 + 5 * (2 * 63) ** 0.5
