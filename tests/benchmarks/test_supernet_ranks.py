"""Ranks of a supernet beside their baselines, in a tiny setting."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

from benchmarks import supernet_ranks
from benchmarks.supernet_ranks import EARLY, Cells, arguments_of, main, regression, sampler
from lightning_nas.supernets import CostWindow, SandwichPaths, UniformPaths

TINY = [
    *("--channels=2", "--size=8", "--batch_size=16", "--steps=4", "--every=2", "--architectures=5", "--scored=10"),
    *("--calibration=8", "--trainings=4", "--training_steps=1", "--resamples=5"),
]


@pytest.fixture
def early(tables: Path) -> Path:
    """The folder of a made-up table that knows accuracies after 12 epochs, too."""
    path = tables / "nasbench201.npz"
    columns = dict(np.load(path))
    np.savez(path, **columns, cifar10_val_12=columns["cifar10_val_200"])
    return tables


@pytest.mark.slow
def test_a_supernet_is_ranked_while_it_is_trained(
    images: Path, early: Path, last: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    def trainer(**options: Any) -> Trainer:
        made.append(options)
        return Trainer(**options)

    monkeypatch.setattr(supernet_ranks, "Trainer", trainer)
    main([f"--data={images}", f"--tables={early}", *TINY])
    rows = last()["rows"]
    assert [row["score"] for row in rows] == [
        "parameters",
        *EARLY,
        "sandwich, 2 steps",
        "sandwich, 4 steps",
        "regression",
    ]
    assert all(-1 <= row[f"{name}_tau"] <= 1 for row in rows for name in ("local", "global"))
    assert [row.get("seed") for row in rows] == [None] * 3 + [0] * 3
    ((_, averaging),) = (each["callbacks"] for each in made)
    assert isinstance(averaging, EMAWeightAveraging)


def test_what_a_step_trains(tables: Path) -> None:
    def of(paths: str) -> Any:
        options = arguments_of(["--data=none.npz", f"--tables={tables}", f"--paths={paths}", *TINY])
        return sampler(options, Cells(options))

    assert isinstance(of("uniform"), UniformPaths)
    assert isinstance(of("cost"), CostWindow)
    sandwich = of("sandwich")
    assert isinstance(sandwich, SandwichPaths)
    assert isinstance(sandwich.paths, CostWindow)


def test_the_regression_finds_what_losses_are_made_of(tables: Path) -> None:
    options = arguments_of(["--data=none.npz", f"--tables={tables}", *TINY])
    cells = Cells(options)
    scores = {"others": [0.1, 0.5, 0.2, 0.9], "local": [0.3, 0.1, 0.4, 0.2, 0.6], "global": [0.5, 0.4, 0.3, 0.2, 0.1]}
    found = regression(cells, scores, [1 - 2 * score for score in scores["others"]])
    for name in ("local", "global"):
        assert found[name] == pytest.approx([2 * score - 1 for score in scores[name]])
