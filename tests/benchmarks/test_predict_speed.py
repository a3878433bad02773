"""Speed of predictors in a tiny setting."""

from collections.abc import Callable
from math import isnan
from typing import Any

import pytest

from benchmarks import predict_speed
from benchmarks.predict_speed import arguments_of, main
from tests.helpers import EveryNASBench101Cell


def test_every_part_is_timed(last: Callable[[], dict[str, Any]]) -> None:
    main(["--threads=1", "--samples=10", "--unlabelled=20", "--steps=2", "--networks=50"])
    found = last()
    assert list(found) == [
        *("training_seconds", "training_cpu_seconds", "drawing_seconds", "generation_milliseconds"),
        *("scoring_seconds", "forest_seconds", "peak_mb"),
    ]
    assert min(found.values()) >= 0
    assert found["generation_milliseconds"] > 0


def test_a_table_gives_ranks_and_reconstructions(
    last: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_speed, "NASBench101Table", lambda path: EveryNASBench101Cell())
    tiny = ["--threads=1", "--samples=10", "--unlabelled=20", "--steps=2", "--networks=50"]
    main([*tiny, "--table=nasbench101.npz", "--held_out=40", "--seed=3"])
    found = last()
    assert -1 <= found["tau"] <= 1
    assert isnan(found["tau_best_tenth"])  # all of them have nine edges, and equal results
    assert 0 <= found["reconstructed"] <= 1


def test_sizes_are_those_of_the_page_of_results() -> None:
    options = arguments_of([])
    assert (options.samples, options.samples + options.unlabelled) == (1000, 11_000)
    assert (options.networks, options.threads) == (423_624, 2)
