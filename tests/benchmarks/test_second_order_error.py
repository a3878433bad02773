"""Errors of finite differences in a tiny setting."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.second_order_error import RADII, arguments_of, main


def test_small_differences_agree_with_the_derivative(last: Callable[[], dict[str, Any]]) -> None:
    main(["--epochs=1", "--batches=1", "--seeds=1", "--channels=2", "--cells=3"])
    found = last()
    points = [f"{point}_{radius:g}" for point in ("start", "trained") for radius in RADII]
    shares = ["start_implicit_share", "trained_implicit_share"]
    assert set(found) == {"seeds", "epochs", "batches", "seconds", *shares, *points}
    for point in ("start", "trained"):
        exact = found[f"{point}_1e-06"]
        assert exact["hypergradient"] < exact["implicit"] < 1e-3 < found[f"{point}_0.01"]["implicit"]
        # both are relative to their own norm, and their ratio is the share of the implicit term
        assert exact["hypergradient"] / exact["implicit"] == pytest.approx(found[f"{point}_implicit_share"])


def test_the_supernet_is_that_of_the_page_of_results() -> None:
    options = arguments_of([])
    assert (options.channels, options.cells, options.seeds) == (8, 4, 3)
    assert RADII == (1e-2, 1e-3, 1e-4, 1e-6)
