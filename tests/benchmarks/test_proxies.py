"""Proxies compared in a tiny setting, and the settings of the comparison."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.proxies import CONFIGS, Bench, arguments_of, main, rows_of
from lightning_nas.data import RandomCrop, RandomFlip
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.data_module import DistilledDataModule
from lightning_nas.distill.images import PlainImages, RandomSubset
from lightning_nas.distill.proxy import Proxy
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.errors import ArtifactError
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.spaces import DARTSSpace, NASBench201Space
from tests.benchmarks.settings import stated
from tests.helpers import started
from tests.tiny import given as written

ROWS = rows_of(300, 900)
SCHEMES = (RandomSubset, PlainImages, HallucinatedBases, RelationMappings)


@pytest.fixture
def given(images: Path, tables: Path) -> list[str]:
    return [f"--data={images}", f"--table={tables / 'nasbench201.npz'}", f"--out={tables / 'out'}"]


def config_of(row: str) -> dict[str, Any]:
    """The configuration of a distillation."""
    return merge(read_yaml(CONFIGS / "distill" / f"{ROWS[row].config}.yaml"), ROWS[row].changes)


@pytest.mark.slow
def test_rows_are_measured_in_both_spaces(given: list[str], tmp_path: Path, last: Callable[[], dict[str, Any]]) -> None:
    few = [
        "--seeds=0",
        "--resamples=2",
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
        assert row["bytes"] == proxy.scheme.stored_bytes
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


IMAGES = {"random subset": (1_229_600, 100), "random subset, a byte a pixel": (4_918_400, 400)}
MADE = {"distribution matching": (1_229_600, 100), "scheme 1": (1_218_000, 450), "scheme 2": (850_832, 500)}


@pytest.fixture(scope="module")
def real() -> tuple[Tensor, Tensor]:
    """50 images of each of 10 classes, as large as those of CIFAR-10."""
    labels = torch.arange(500) % 10
    return torch.randn(500, 3, 32, 32, generator=torch.Generator().manual_seed(0)), labels


@pytest.mark.parametrize("row", [*IMAGES, *MADE])
def test_proxies_have_the_bytes_and_images_of_the_table(row: str, real: tuple[Tensor, Tensor]) -> None:
    named = config_of(row)["model"]["init_args"]["scheme"]
    (kind,) = (each for each in SCHEMES if each.__name__ == named["class_path"].rpartition(".")[2])
    scheme = started(kind(**named["init_args"]), *real)
    assert (scheme.stored_bytes, len(scheme.proxy().labels)) == {**IMAGES, **MADE}[row]


@pytest.mark.parametrize(("row", "steps"), [("scheme 1", 30), ("scheme 2, gradient matching", 6)])
def test_distillations_take_the_steps_of_the_table(row: str, steps: int) -> None:
    config = config_of(row)
    assert config["trainer"]["max_epochs"] == 10
    assert config["data"]["init_args"].items() >= {"steps_per_epoch": steps, "images_per_class": 32}.items()
    assert config["model"]["init_args"]["matcher"]["init_args"]["width"] == 64


def test_rows_of_16_pixels_have_the_stated_bytes() -> None:
    """At one byte per pixel, and ten classes."""
    counts = {
        name: row.changes["model"]["init_args"]["scheme"]["init_args"]["images_per_class"]
        for name, row in ROWS.items()
        if row.side == 16
    }
    assert [round(count * 10 * 3 * 16 * 16 / 1e6, 2) for count in sorted({*counts.values()})] == [
        *(0.08, 0.16, 0.33, 1.22),
        6.91,  # all that is distilled of 10,000
    ]
    assert {name.partition(",")[0] for name in counts} == {
        *("random subset", "herding", "k-centre", "distribution matching", "all images"),
    }
