"""Local search against a loop that is written out."""

import pytest

from lightning_nas.errors import ConfigError
from lightning_nas.strategies.local_search import LocalSearch
from tests.strategies.rugged import FIVE, TWO, searched, tell, value


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_local_search_is_the_loop_written_by_hand(first: bool, count: int) -> None:
    strategy = LocalSearch(from_largest=True, restarts=False, first_improvement=first)
    found = searched(strategy, 1000, count)
    current = FIVE.largest()
    known = {current}
    while True:
        near = list(FIVE.neighbours(current))
        known |= set(near)
        if max(map(value, near)) < value(current):
            break
        current = max(near, key=value)
    assert found[0] == FIVE.largest()
    assert len(set(found)) == len(found)
    if not first:  # otherwise the order of the neighbours decides where it goes
        assert set(found) == known
        assert strategy.best() == current
    best = strategy.best()
    assert all(value(a) <= value(best) for a in FIVE.neighbours(best))


def test_first_improvement_moves_at_once() -> None:
    strategy = LocalSearch(from_largest=False, first_improvement=True)
    strategy.start(FIVE, seed=3)
    (start,) = strategy.ask(1)
    tell(strategy, [start])
    for _ in range(24):
        (near,) = strategy.ask(1)
        assert near in set(FIVE.neighbours(start))
        tell(strategy, [near])
        if value(near) > value(start):
            break
    else:
        pytest.fail("the start was an optimum")
    (after,) = strategy.ask(1)
    assert strategy.current == near
    assert after in set(FIVE.neighbours(near))


def test_local_search_starts_again_at_random_and_ends_with_the_space() -> None:
    found = searched(LocalSearch(from_largest=True), 100, space=TWO)
    assert len(set(found)) == len(found) == 64
    ended = LocalSearch(restarts=False)
    assert len(searched(ended, 1000)) < 1000
    assert ended.ask(1) == []
    assert searched(LocalSearch(), 40, seed=1) != searched(LocalSearch(), 40, seed=2)


def test_neighbours_are_looked_at_in_random_order() -> None:
    orders = {tuple(searched(LocalSearch(from_largest=True), 25, seed=seed)[1:]) for seed in range(5)}
    assert len(orders) == 5
    assert len({frozenset(order) for order in orders}) == 1


def test_patience_ends_a_descent_early() -> None:
    strategy = LocalSearch(from_largest=True, restarts=False, patience=5)
    found = searched(strategy, 1000, 100)
    best = max(found, key=value)
    after = found[found.index(best) + 1 :]
    assert 5 <= len(after) <= 4 + 5  # the siblings asked for after it, and neighbours of its own
    with pytest.raises(ConfigError, match="patience is 0"):
        LocalSearch(patience=0)
