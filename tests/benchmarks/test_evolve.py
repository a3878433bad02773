"""Supernets before and after a search, in a tiny setting, and what the variants train."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import evolve
from benchmarks.evolve import COMPARED, VARIANTS, Bench, arguments_of, main, settings_of, smaller
from lightning_nas.errors import ArtifactError
from lightning_nas.spaces import NASBench201Space
from lightning_nas.supernets.sampling import CostWindow, UniformPaths
from lightning_nas.tasks.evolve import EvolveTask
from lightning_nas.tasks.supernet import SupernetTask
from tests.benchmarks.settings import TINY_EVOLUTION


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tasks of all runs, by the name of their folder."""
    tasks, run = {}, evolve.run

    def kept(arguments: list[str]) -> Any:
        made = run(arguments)
        tasks[Path(arguments[2]).parent.name] = made.model
        return made

    monkeypatch.setattr(evolve, "run", kept)
    return tasks


def options_of(images: Path, tables: Path, *more: str) -> list[str]:
    return [f"--data={images}", f"--tables={tables}", *TINY_EVOLUTION, *more]


@pytest.mark.slow
def test_shifting(
    images: Path, tables: Path, tmp_path: Path, fitted: dict[str, Any], last: Callable[[], dict[str, Any]]
) -> None:
    given = options_of(images, tables, "--method=shifting", f"--out={tmp_path / 'out'}")
    main(given)
    found = last()
    shown = [f"{kind}_{v}" for v in VARIANTS["shifting"] for kind in ("local_tau", "global_tau")]
    shown += [f"found_{kind}_{v}" for v in VARIANTS["shifting"] for kind in ("accuracy", "rank")]
    intervals = ["gain_interval", "global_gain_interval"]
    assert set(found) == {"method", "seeds", "feasible", "seconds", *shown, *intervals}
    assert (found["method"], found["seeds"], found["feasible"]) == ("shifting", 1, 4**6)

    trained = {name: task for name, task in fitted.items() if isinstance(task, SupernetTask)}
    assert {name: type(task.paths) for name, task in trained.items()} == {
        "start_trained": CostWindow,
        "longer_trained": UniformPaths,
        "by_cost_trained": CostWindow,
    }
    batches = 1 * 4 * 1  # generations, population, batches per cell
    assert {name: task.global_step for name, task in trained.items()} == {
        "start_trained": 10,
        "longer_trained": batches,
        "by_cost_trained": batches,
    }
    for task in trained.values():
        assert task.make_scheduler is None  # the rate is constant
        (group,) = task.trainer.optimizers[0].param_groups
        assert group["lr"] == (0.1 if task is trained["start_trained"] else 0.01)
        assert task.trainer.datamodule.batch_size == 64
    searched = {name: task for name, task in fitted.items() if isinstance(task, EvolveTask)}
    assert set(searched) == set(VARIANTS["shifting"])
    shifting = {name: task.shifting for name, task in searched.items() if task.shifting is not None}
    assert {name: (each.accumulate, each.frozen_body, each.steps) for name, each in shifting.items()} == {
        "after": (False, False, 1),
        "accumulated": (True, False, 1),
        "frozen": (False, True, 1),
    }
    with pytest.raises(ArtifactError, match="other settings"):
        main([*given, "--steps=20"])


@pytest.mark.slow
def test_transfer(images: Path, tables: Path, fitted: dict[str, Any], last: Callable[[], dict[str, Any]]) -> None:
    arrays = dict(np.load(tables / "nasbench201.npz"))
    np.savez(tables / "nasbench201.npz", **arrays, cifar100_test_200=arrays["cifar10_test_200"][::-1])
    main(options_of(images, tables, "--method=transfer", f"--target={images}"))
    assert set(last()) >= {f"local_tau_{variant}" for variant in VARIANTS["transfer"]} | {"gain_interval"}
    assert fitted["scratch_trained"].global_step == 4
    assert fitted["scratch_twice_trained"].global_step == 8
    assert fitted["transfer"].shifting is not None


def test_the_setting_is_that_of_the_page_of_results(images: Path, tables: Path) -> None:
    options = arguments_of(["--method=shifting", f"--data={images}", f"--tables={tables}"])
    bench = Bench(options, tables, smaller(str(images), tables / "smaller.npz", options.images))
    assert bench.batches == 640
    assert isinstance(bench.space, NASBench201Space)
    assert (bench.space.channels, bench.space.cells_per_stage) == (8, 1)
    assert bench.shift["steps"] == 4
    assert (options.steps, options.lr, options.shift_lr) == (3000, 0.1, 0.01)
    assert (options.generations, options.population) == (8, 20)
    assert {name: len(cells) for name, cells in bench.sets.items()} == {"global": 100, "local": 100}
    best = sorted(bench.ranked, reverse=True)[: 4**6 // 10]
    assert min(bench.targets("local")) >= min(best)
    with np.load(tables / "smaller.npz") as arrays:
        assert arrays["x_train"].shape == (160, 8, 8, 3)
    assert COMPARED == {"shifting": ("longer", "after"), "transfer": ("scratch", "transfer")}
    assert isinstance(options, argparse.Namespace)
    assert set(settings_of(options)) >= {"steps", "lr", "channels", "cells", "data_sha256"}
