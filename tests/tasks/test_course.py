"""Fractions of a course, and events that are spread over it."""

import pytest

from lightning_nas.tasks.course import is_due, share


def test_a_share_is_exact_at_both_ends_and_never_beyond() -> None:
    assert [share(step, 4) for step in (-1, 0, 1, 2, 3, 4)] == [0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0]
    assert all(share(steps - 1, steps) == 1.0 for steps in range(1, 1000))
    assert share(0, 1) == 1.0


@pytest.mark.parametrize(
    ("count", "steps", "first", "due"),
    [
        (3, 6, 0, [2, 4, 6]),
        (2, 7, 1, [4, 7]),
        (1, 5, 0, [5]),
        (50, 3, 0, [1, 2, 3]),
        (4, 10, 2, [4, 6, 8, 10]),
        (3, 4, 4, []),
    ],
)
def test_events_are_spread_evenly_up_to_the_end(count: int, steps: int, first: int, due: list[int]) -> None:
    assert [step for step in range(-1, steps + 3) if is_due(count, step, steps, first)] == due
