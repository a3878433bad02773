"""Differentiable searches in a tiny setting, alone and refined, and the settings of the page of results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import search
from benchmarks.search import Bench, TrainedBench, arguments_of, main
from lightning_nas.data import RandomCrop, RandomFlip
from lightning_nas.pipeline.config import merge
from tests.benchmarks.settings import stated

KEYS = {
    *("method", "without", "attention", "seeds", "mean_accuracy", "std_accuracy", "search_alone_mean"),
    *("search_alone_least", "largest_refine_mean", "median_rank", "random_mean", "best_of_k", "k", "largest"),
    *("selection_errors_edges", "selection_errors_operations", "seconds", "seconds_most", "steps"),
    *("steps_per_second", "peak_memory_mb"),
}


def options_of(images: Path, tables: Path, method: str, *more: str, space: str = "nasbench201") -> list[str]:
    given = [f"--space={space}", f"--data={images}", f"--tables={tables}", f"--method={method}", *more]
    return [*given, "--seeds=1", "--epochs=1"]


@pytest.mark.slow
def test_the_search_of_the_pipeline_is_refined(
    images: Path, tables: Path, monkeypatch: pytest.MonkeyPatch, last: Callable[[], dict[str, Any]]
) -> None:
    whole = Bench.config
    short = {"steps": [1, 2], "channels": 2, "cells": 1, "batch_size": 8}
    parallel = {"executor": {"class_path": "Serial"}, "evaluator": {"init_args": short}}
    prior = {"init_args": {"evaluator": {"init_args": parallel}}}
    refined = {"evaluator": prior, "strategy": {"init_args": {"neighbours": 1}}}
    tiny = {"stages": {"refine": {"model": {"init_args": refined}}}}
    monkeypatch.setattr(Bench, "config", lambda self: merge(whole(self), tiny))
    main(options_of(images, tables, "default", "--alone"))
    found = last()
    assert set(found) == KEYS
    assert (found["method"], found["seeds"], found["steps"]) == ("default", 1, 2)
    for name in ("mean_accuracy", "search_alone_mean", "random_mean", "largest"):
        assert 0 < found[name] <= 100


@pytest.mark.slow
def test_a_method_is_searched_in_the_darts_space(
    images: Path, tables: Path, last: Callable[[], dict[str, Any]]
) -> None:
    main(options_of(images, tables, "darts", "--alone", "--steps=1", "--random_cells=1", space="darts"))
    found = last()
    assert set(found) == KEYS
    assert (found["method"], found["largest_refine_mean"], found["best_of_k"], found["steps"]) == (
        "darts",
        None,
        None,
        1,
    )


def test_settings_are_those_of_the_page_of_results(images: Path, tables: Path) -> None:
    given = [f"--data={images}", f"--tables={tables}", "--method=default"]
    options = arguments_of([*given, "--space=nasbench201"])
    assert (options.images, options.seeds) == (5000, 3)
    bench = Bench(options, tables)
    stages = bench.stages(0, tables)
    arguments = stages["search"].arguments
    assert arguments["space"]["init_args"] == {
        "operations": ["skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"],
        "channels": 8,
        "cells_per_stage": 1,
    }
    config = stages["search"].config
    loading = config["data"]["init_args"]
    halves = options.images // 2
    # 468 steps in all
    assert config["trainer"]["max_epochs"] * (halves // loading["batch_size"]) == 468
    assert loading["data"]["init_args"]["image_size"] == search.SIDE == 16
    assert loading["data"]["init_args"]["train_limit"] == 5000
    parallel = stages["refine"].arguments["evaluator"]["init_args"]["evaluator"]["init_args"]
    assert parallel["executor"] == {"class_path": "Processes", "init_args": {"workers": 2}}
    assert parallel["evaluator"]["init_args"].items() >= {"channels": 4, "cells": 5, "batch_size": 32}.items()


def test_reference_trainings_are_those_of_the_page_of_results(images: Path, tables: Path) -> None:
    """Two trainings of 8 channels and 5 cells on the other half of the images; a supernet of 4 channels and 3 cells."""
    given = ["--space=darts", f"--data={images}", "--method=darts", "--steps=300"]
    bench = TrainedBench(arguments_of(given), tables)
    assert stated(bench.trained) == {
        **{"steps": [300], "repeats": [2], "batch_size": 32, "channels": 8, "cells": 5, "image_size": None},
        **{"learning_rate": 0.1, "online": False, "classes": None},
    }
    assert [type(each) for each in bench.trained.augmentations] == [RandomCrop, RandomFlip]
    assert bench.trained.data.half_sizes() == {"train": 40, "search": 40}
    assert bench.stages(0, tables)["search"].arguments["space"] == {
        "class_path": "DARTSSpace",
        "init_args": {"channels": 4, "cells": 3},
    }


@pytest.mark.parametrize("method", ["p_darts", "pc_darts"])
def test_methods_of_the_other_space_are_refused(method: str, images: Path, tables: Path) -> None:
    with pytest.raises(SystemExit):
        main(options_of(images, tables, method))
