"""Races between candidates whose values are measured image by image."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_nas.errors import ConfigError
from lightning_nas.metrics.race import race

IMAGES = 16


def values(*means: float, noise: float = 1.0, shared: float = 0.0, batches: int = 64, seed: int = 0) -> Tensor:
    """Values ``(candidates, batches, images)`` with noise of their own, and with noise that all of them share."""
    generator = torch.Generator().manual_seed(seed)
    own = noise * torch.randn(len(means), batches, IMAGES, generator=generator)
    common = shared * torch.randn(1, batches, IMAGES, generator=generator)
    return torch.tensor(means).view(-1, 1, 1) + own + common


def counted(given: Tensor) -> tuple[Callable[[int, int], Tensor], Counter[int]]:
    """A measurement, and how many batches it has measured of every candidate."""
    taken: Counter[int] = Counter()

    def measure(candidate: int, batch: int) -> Tensor:
        taken[candidate] += 1
        return given[candidate, batch]

    return measure, taken


def run(given: Tensor, **options: Any) -> Any:
    return race(lambda candidate, batch: given[candidate, batch], *given.shape[:2], **options)


def test_candidates_take_as_many_images_as_they_need() -> None:
    measure, taken = counted(values(-0.5, 1.0, 0.7, -5.0, noise=2.0, batches=256))
    found = race(measure, 4, 256)
    assert (found.ranking[0], found.decided, found.tie) == (1, True, False)
    assert taken[3] < taken[0] < taken[2] == taken[1] < 256  # the closer, the longer
    assert found.images == IMAGES * taken[1]
    assert found.error is not None
    assert 0.1 < found.lead < 0.8
    assert found.lead > 2 * found.error


def test_what_all_share_is_no_error() -> None:
    """Some images are hard without any of the candidates; the differences are paired."""
    assert run(values(0.0, 1.0, noise=0.1, shared=100.0)).images == IMAGES


def test_equal_candidates_are_undecided_after_all_batches() -> None:
    found = run(values(0.0, 0.0, 0.0))
    assert (found.decided, found.tie, found.images) == (False, False, 64 * IMAGES)


def test_the_lead_and_its_error_are_those_of_paired_differences() -> None:
    given = values(0.0, 0.01, shared=5.0)
    found = run(given)
    first, second = found.ranking
    differences = (given[first] - given[second]).flatten().double()
    assert found.lead == pytest.approx(float(differences.mean()))
    assert found.error == pytest.approx(float(differences.std()) / len(differences) ** 0.5)


def test_ties_end_a_race_that_nothing_else_is_left_of() -> None:
    given = values(0.0, 0.0, -5.0, noise=0.5)
    given[1] = given[0] + 1e-7
    measure, taken = counted(given)
    found = race(measure, 3, 64)
    assert (found.decided, found.tie) == (False, True)
    assert set(found.ranking[:2]) == {0, 1}
    assert max(taken.values()) < 64
    # with another one that may still be ahead of both, the race goes on
    given = values(0.0, 0.0, 0.3, noise=1.0)
    given[1] = given[0]
    found = run(given)
    assert (found.ranking[0], found.decided, found.tie) == (2, True, False)


def test_several_are_kept() -> None:
    found = run(values(0.0, 2.0, -1.0, 2.1, 0.1), kept=2)
    assert (set(found.ranking[:2]), found.decided) == ({1, 3}, True)
    given = values(1.0, 0.0, 0.0)
    given[2] = given[1]
    found = run(given, kept=2)
    assert (found.ranking[0], found.decided, found.tie) == (0, False, True)
    assert found.images < 64 * IMAGES


def test_a_single_image_decides_nothing() -> None:
    found = race(lambda candidate, batch: torch.tensor([float(candidate)]), 3, 1)
    assert (found.decided, found.tie, found.images, found.error) == (False, False, 1, None)
    assert found.ranking == (2, 1, 0)


def test_wrong_decisions_are_as_rare_as_stated() -> None:
    """Looking after every doubling, at all pairs, stays within the confidence, which a fixed quantile does not."""
    races = [run(values(0.0, 0.0, 0.0, 0.0, batches=16, seed=seed), confidence=0.8) for seed in range(300)]
    assert 0 < sum(each.decided for each in races) / len(races) < 0.2


def test_who_is_left_behind_is_told() -> None:
    told: list[int] = []
    run(values(0.0, 1.0, 0.6, -5.0, noise=2.0), left_behind=told.append)
    assert told == sorted(told)
    assert (told[0] > 0, told[-1]) == (True, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 1}, "candidates is 1"),
        ({"batches": 0}, "batches is 0"),
        ({"kept": 0}, "kept is 0"),
        ({"kept": 3}, "kept is 3 of 3"),
        ({"confidence": 0.5}, "confidence is 0.5"),
        ({"confidence": 1.0}, "confidence is 1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        race(lambda candidate, batch: torch.zeros(4), **{"candidates": 3, "batches": 2, **options})
