"""The file of trainings in the DARTS space, in a tiny setting."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.darts_truth import PUBLISHED, Truth, arguments_of, main, named_cells
from lightning_nas.data import RandomCrop, RandomFlip
from lightning_nas.errors import ArtifactError, DataError
from lightning_nas.spaces import DARTSSpace
from tests.benchmarks.settings import stated
from tests.conftest import ROOT


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(80, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(80) % 4
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    numbers = {"random": 1, "steps": 2, "batch_size": 8, "channels": 2, "cells": 3, "size": 4}
    given = [f"--{name}={value}" for name, value in {**numbers, "train": 60, "validation": 20}.items()]
    return [f"--images={tmp_path / 'images.npz'}", f"--truth={tmp_path / 'truth.json'}", *given]


def test_a_killed_run_goes_on_with_what_is_missing(
    tiny: list[str], tmp_path: Path, last: Callable[[], dict[str, Any]]
) -> None:
    main(tiny)
    assert list(last()) == ["trainings", "random_mean", "random_best", "tau_of_parameters"]
    path = tmp_path / "truth.json"
    whole = json.loads(path.read_text())
    assert [row["name"] for row in whole["rows"]] == ["largest", "random_0", "DARTS_V2", "DARTS_V1", "PDARTS"]
    kept = {**whole, "rows": [{**row, "loss": -1.0} for row in whole["rows"][:2]]}
    path.write_text(json.dumps(kept))
    main(tiny)
    resumed = json.loads(path.read_text())["rows"]
    assert [row["loss"] for row in resumed[:2]] == [-1.0, -1.0]
    assert resumed[2:] == whole["rows"][2:]


def test_the_recipe_is_that_of_the_file_of_results(tmp_path: Path) -> None:
    """Apart from the digest of the images, which are noise here."""
    pixels = np.random.default_rng(0).integers(256, size=(25_000, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(25_000) % 10
    np.savez(tmp_path / "images.npz", x_train=pixels, y_train=labels, x_test=pixels[:8], y_test=labels[:8])
    options = arguments_of([f"--images={tmp_path / 'images.npz'}", f"--truth={tmp_path / 'truth.json'}"])
    truth = Truth(options)
    kept = json.loads((ROOT / "benchmarks" / "data" / "darts_truth.json").read_text())["recipe"]
    assert {**truth.recipe, "images_sha256": ""} == {**kept, "images_sha256": ""}
    assert stated(truth.training) == {
        **{"steps": [1500], "repeats": [1], "batch_size": 32, "channels": 12, "cells": 8, "image_size": None},
        **{"learning_rate": kept["learning_rate"], "online": False, "classes": None},
    }
    assert [type(each) for each in truth.training.augmentations] == [RandomCrop, RandomFlip]
    assert truth.training.data.half_sizes() == {"train": 20_000, "search": 5000}
    assert options.random == 20


def test_another_recipe_and_too_few_images_are_refused(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps({"schema": 1, "recipe": {"steps": 3}, "rows": []}))
    with pytest.raises(ArtifactError, match=r"another recipe.*'steps': 3.*not.*'steps': 2"):
        main(tiny)
    with pytest.raises(DataError, match="expected 600 and 200"):
        main([*tiny, "--train=600", "--validation=200"])


def test_cells_of_a_search_join() -> None:
    assert list(named_cells(2, [])) == ["largest", "random_0", "DARTS_V2", "random_1", "DARTS_V1", "PDARTS"]
    named = named_cells(0, [PUBLISHED[0].replace("DARTS_V2", "found", 1)])
    assert list(named) == ["largest", "found", "DARTS_V2", "DARTS_V1", "PDARTS"]
    assert DARTSSpace().key(named["found"]) == DARTSSpace().key(named["DARTS_V2"])
    assert named_cells(3, [])["random_2"] == named_cells(5, [])["random_2"]
