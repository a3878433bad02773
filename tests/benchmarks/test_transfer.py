"""Cells found on a proxy, transferred in a tiny setting, and the settings of their trainings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.transfer import Bench, arguments_of, main
from lightning_nas.data import HalvesDataModule, RandomCrop, RandomFlip
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import ArtifactError
from tests.benchmarks.settings import stated
from tests.helpers import started
from tests.tiny import arrays


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """A proxy and images of the same three classes, and a target."""
    images, labels = torch.randn(72, 3, 16, 16), torch.arange(72) % 3
    proxy = Proxy(started(PlainImages(24), images, labels), ["0", "1", "2"], [0.5] * 3, [0.2] * 3, {})
    for row in ("scheme_1_0", "random_subset_0"):
        (tmp_path / "proxies" / row).mkdir(parents=True)
        proxy.save(tmp_path / "proxies" / row / "proxy.safetensors")
    data = arrays(tmp_path / "images.npz", side=16, per_class=48)
    target = arrays(tmp_path / "others.npz", side=16, per_class=48)
    named = {"proxies": tmp_path / "proxies", "data": data, "targets": target, "out": tmp_path / "out"}
    return [f"--{name}={path}" for name, path in named.items()]


@pytest.mark.slow
def test_cells_of_every_kind_are_trained_on_the_target(given: list[str], last: Callable[[], dict[str, Any]]) -> None:
    few = ["--seeds=0", "--steps=1", "--train_steps=1", "--channels=2"]
    main([*given, *few])
    rows = last()["rows"]
    assert [row["row"] for row in rows] == ["scheme 1", "random subset", "all real images", "random cell"]
    for row in rows:
        assert list(row) == ["row", "seed", "search_seconds", "seconds_a_step", "others", "parameters"]
        assert 0 <= row["others"] <= 1
        assert row["parameters"] > 0
    assert rows[-1]["search_seconds"] == 0
    with pytest.raises(ArtifactError, match="other settings"):
        main([*given, *few, "--train_steps=2"])


def test_cells_are_trained_as_the_page_of_results_says(given: list[str]) -> None:
    bench = Bench(arguments_of(given))
    training = bench.training(bench.options.targets[0], 3)
    assert stated(training) == {
        **{"steps": [300], "repeats": [1], "batch_size": 64, "channels": 12, "cells": 5, "image_size": 16},
        **{"learning_rate": 0.1, "online": False, "classes": None},
    }
    assert [type(each) for each in training.augmentations] == [RandomCrop, RandomFlip]
    assert isinstance(training.data, HalvesDataModule)
    assert training.data.half_sizes() == {"train": 72, "search": 72}
    assert (bench.options.steps, bench.options.seeds) == (100, [0, 1, 2])
