"""Speed of predictors in a tiny setting."""

from collections.abc import Callable
from typing import Any

from benchmarks.predict_speed import arguments_of, main


def test_every_part_is_timed(last: Callable[[], dict[str, Any]]) -> None:
    main(["--threads=1", "--samples=10", "--unlabelled=20", "--steps=2", "--networks=50"])
    found = last()
    assert list(found) == [
        *("training_seconds", "drawing_seconds", "generation_milliseconds", "scoring_seconds", "forest_seconds"),
        "peak_mb",
    ]
    assert min(found.values()) >= 0
    assert found["generation_milliseconds"] > 0


def test_sizes_are_those_of_the_page_of_results() -> None:
    options = arguments_of([])
    assert (options.samples, options.samples + options.unlabelled) == (1000, 11_000)
    assert (options.networks, options.threads) == (423_624, 2)
