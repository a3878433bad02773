"""Proxies compared in a tiny setting, and the settings of the comparison."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.proxies import Bench, arguments_of, main
from lightning_nas.data import RandomCrop, RandomFlip
from lightning_nas.distill.data_module import DistilledDataModule
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.spaces import DARTSSpace, NASBench201Space
from tests.benchmarks.settings import stated
from tests.tiny import given as written


@pytest.fixture
def given(images: Path, tables: Path) -> list[str]:
    return [f"--data={images}", f"--table={tables / 'nasbench201.npz'}", f"--out={tables / 'out'}"]


@pytest.mark.slow
def test_rows_are_measured_in_both_spaces(given: list[str], tmp_path: Path, last: Callable[[], dict[str, Any]]) -> None:
    few = [
        "--seeds=0",
        "--resamples=2",
        "--width=4",
        "--steps=10",
        "--quality_steps=1",
        "--rank_steps=1",
        "--reference_steps=1",
        "--candidates",
        "3",
    ]
    chosen = ["--rows", "distribution matching", "all images, 16 pixels"]
    main([*given, *few, "2", *chosen])
    found = last()
    assert list(found) == ["rows"]
    assert [list(row) for row in found["rows"]] == [
        ["scheme", "bytes", "images", "accuracy", "tau", "seconds", "seeds"]
    ] * 2
    assert [row["scheme"] for row in found["rows"]] == chosen[1:]
    matched, every = found["rows"]
    assert (matched["images"], every["images"]) == (100, 140)
    for row in found["rows"]:
        proxy = Proxy.load(tmp_path / "out" / f"{row['scheme'].replace(' ', '_').replace(',', '')}_0/proxy.safetensors")
        assert row["bytes"] == proxy.stored_bytes
        assert proxy.image_shape == (3, 16, 16)
        assert set(row["tau"]) == {"nasbench201", "darts"}
        assert row["seeds"] == [0]
    # what is there is not measured again, unless the settings or the images are others
    kept = tmp_path / "out" / "all_images_16_pixels_0" / "measured.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "accuracy": -1.0}))
    main([*given, *few, "2", *chosen])
    assert last()["rows"][1]["accuracy"] == -1
    with pytest.raises(ArtifactError, match=r"other settings: {'candidates': \[3, 2\]}, not {'candidates': \[3, 3\]}"):
        main([*given, *few, "3", *chosen])


def test_rows_that_take_more_images_than_there_are_are_refused(given: list[str]) -> None:
    with pytest.raises(ConfigError, match="4 bits, 77 kB' needs more images of every class than the 14"):
        main([*given, "--rows", "random subset, 4 bits, 77 kB"])


def test_trainings_are_those_of_the_table(given: list[str], tmp_path: Path) -> None:
    bench = Bench(arguments_of(given))
    halves = DistilledDataModule(str(written(tmp_path) / "proxy.safetensors"), held_out=bench.real())
    shared = {"repeats": [1], "image_size": 16, "learning_rate": 0.1, "online": False, "classes": None}
    trainings = {name: make(halves, 7) for name, (_, make) in bench.spaces().items()}
    assert stated(trainings["nasbench201"]) == {"steps": [60], "batch_size": 64, "channels": 8, "cells": 1, **shared}
    assert stated(trainings["darts"]) == {"steps": [60], "batch_size": 32, "channels": 4, "cells": 5, **shared}
    for training in trainings.values():
        assert (training.data, training.seed) == (halves, 7)
        assert [type(each) for each in training.augmentations] == [RandomCrop, RandomFlip]
    assert stated(bench.long_training()) == {"steps": [200], "batch_size": 64, "channels": 4, "cells": 5, **shared}
    assert [len(bench.candidates(space())) for space in (NASBench201Space, DARTSSpace)] == [64, 32]
    assert (bench.options.seeds, bench.options.quality_steps) == ([0, 1, 2], 400)
