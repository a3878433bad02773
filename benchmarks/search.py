"""Compare differentiable searches with equal budgets, alone and refined, by the results of NAS-Bench-201.

    python -m benchmarks.search --space nasbench201 --data FILE.npz --tables FOLDER --method default --seeds 5

FILE.npz contains CIFAR-10 (``x_train``, ``y_train``, ``x_test``, ``y_test``), whose images are scaled down to 16x16.
Every seed draws its own images (``--images``), splits them into halves, and searches with a file of ``configs/search``
in a supernet with 8 channels and one cell per stage, without the operation ``none``. All methods have the same number
of steps and images and the same optimizers; their own components are those of their files. The reference accuracy of a
found cell is the mean test accuracy in the table after 200 epochs on all images. For the space ``darts`` there is no
table: half of the images of the file are for searches, and on the other half networks of the found cells and of random
ones are trained briefly, which gives the reference accuracy.

``default`` is ``configs/pipeline/nasbench201_two_scheme.yaml``: its search, then its stage ``refine``, in two
processes. On the same images, it is compared with ``largest_refine``, the same refinement of the largest cell alone
with all its neighbours, and with the best of k random cells by the same short trainings, as many as take the time of
``default``.
With ``--proxy scheme1`` all of them use a proxy, which is distilled first, and a tenth of the real images as the search
half.

The last line is JSON: accuracies in percent, seconds of a whole search, the mean of ``k``, and selection errors of all
seeds together.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas import spaces
from lightning_nas.architecture import Architecture
from lightning_nas.cli.lightning import run
from lightning_nas.data.augmentation import RandomCrop, RandomFlip
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.files.artifacts import read_json
from lightning_nas.metrics.selection import KINDS, pooled
from lightning_nas.pipeline.config import read_yaml, set_key
from lightning_nas.pipeline.stages import Stage, resolve
from lightning_nas.spaces.artifact import build_space
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.nasbench201 import NASBench201Table

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
PIPELINE = CONFIGS / "pipeline" / "nasbench201_two_scheme.yaml"
SIDE = 16
HELD_OUT = 0.1
"""Fraction of the real images that is the search half of a search on a proxy."""
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
SHARED = ("space", "weight_optimizer", "weight_scheduler", "alpha_optimizer", "seed", "selection_images")
"""Arguments that all methods share with the search of the pipeline."""
DISTILLATION: dict[str, Any] = {
    "config": "../distill/scheme1.yaml",
    "model": {
        "init_args": {
            "scheme": {"init_args": {"bases_per_class": 40}},
            "matcher": {"init_args": {"width": 32}},
            "regularizers": [{"class_path": "AdversarialContrast", "init_args": {"width": 32}}],
            "seed": "${seed_everything}",
        }
    },
    "data": {"init_args": {"images_per_class": 64, "steps_per_epoch": 60, "data": "${data}"}},
    "trainer": {"max_epochs": 10},
}
"""Scheme 1 as in the pipeline for a CPU, but longer and with 2,000 images; deep cells learn little from 500 images."""


def smaller(source: str, target: Path) -> Path:
    """Write the images of a file, scaled down by averaging."""
    arrays = dict(np.load(source))
    for name in ("x_train", "x_test"):
        images = arrays[name]
        factor = images.shape[1] // SIDE
        arrays[name] = images.reshape(len(images), SIDE, factor, SIDE, factor, 3).mean((2, 4)).round().astype(np.uint8)
    np.savez(target, **arrays)
    return target


class StepTimer(Callback):
    """Records the seconds of every training step."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the clock."""
        self.step_seconds.append(time.perf_counter() - self._start)


class Bench:
    """One data set and one table.

    Args:
        options: Options of the command line.
        folder: Folder for all files.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.data = smaller(options.data, folder / "images.npz")
        self.table = NASBench201Table(str(Path(options.tables) / "nasbench201.npz"))
        self.reference = self.table.column(options.column)
        self.step_seconds: list[float] = []

    def accuracy(self, architecture: Architecture) -> float:
        """Look up the reference accuracy of a cell in percent."""
        return float(self.reference[self.table.rows([architecture])[0]])

    def rank(self, accuracy: float) -> int:
        """Return the rank of an accuracy among all cells of the table."""
        return 1 + int((self.reference > accuracy).sum())

    @property
    def space(self) -> SearchSpace:
        """The searched space."""
        found = self.stages(0, self.folder)["search"].arguments["space"]
        return getattr(spaces, found["class_path"])(**found["init_args"])  # type: ignore[no-any-return]

    def random_mean(self) -> float:
        """Return the mean accuracy of all cells of the space."""
        names = self.space.operations  # type: ignore[attr-defined]
        cells = [self.table.architecture(row) for row in range(len(self.table))]
        published = build_space(cells[0].space).operations  # type: ignore[attr-defined]
        inside = [all(published[choice] in names for choice in cell.choices) for cell in cells]
        return float(self.reference[np.array(inside)].mean())

    def config(self) -> dict[str, Any]:
        """Read the configuration of the pipeline for the space."""
        return {"constraints": {}, **read_yaml(PIPELINE)}

    def stages(self, seed: int, folder: Path) -> dict[str, Stage]:
        """Resolve the stages of the pipeline on the images of a seed, by name."""
        options, config = self.options, self.config()
        images = {"path": str(self.data), "train_limit": options.images, "seed": seed, "split_seed": seed}
        config["data"] = {"class_path": "ArrayDataModule", "init_args": images}
        config["seed_everything"] = seed
        if options.epochs:
            set_key(config, "stages.search.trainer.max_epochs", options.epochs)
        if options.proxy:
            images["validation_fraction"] = HELD_OUT
            config["stages"] = {"distill": DISTILLATION, **config["stages"]}
            search = config["stages"]["search"]
            loading = search["data"]["init_args"]
            proxy = {
                "proxy_path": "${run_dir}/proxy.safetensors",
                "seed": "${seed_everything}",
                "batch_size": loading["batch_size"],
                "augmentations": loading["data"]["init_args"]["augmentations"],
                "held_out": "${data}",
            }
            search["data"] = {"class_path": "DistilledDataModule", "init_args": proxy}
        return {stage.name: stage for stage in resolve(config, folder, PIPELINE.parent)}

    def fit(self, config: dict[str, Any], folder: Path) -> tuple[Any, float]:
        """Run the configuration of a stage, and return its task and seconds."""
        folder.mkdir(parents=True, exist_ok=True)
        config = deepcopy(config)
        config["model"]["init_args"]["output_dir"] = str(folder)
        # progress bar and checkpoint of the pipeline are not part of the measurement
        unwanted = ("TQDMProgressBar", "ModelCheckpoint")
        kept = [each for each in config["trainer"].get("callbacks") or [] if each["class_path"] not in unwanted]
        kept.append({"class_path": "benchmarks.search.StepTimer"})
        config["trainer"] |= QUIET | {"callbacks": kept, "default_root_dir": str(folder)}
        written = folder / "config.yaml"
        written.write_text(yaml.safe_dump(config))
        start = time.perf_counter()
        task = run(["fit", "--config", str(written), "--run_folder.overwrite", "true"]).model
        seconds = time.perf_counter() - start
        self.step_seconds += next(each for each in task.trainer.callbacks if hasattr(each, "step_seconds")).step_seconds
        return task, seconds


class TrainedBench(Bench):
    """The DARTS space, where reference accuracies come from trainings on images that searches do not see.

    Args:
        options: Options of the command line.
        folder: Folder for all files.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        arrays = dict(np.load(smaller(options.data, folder / "all.npz")))
        half = len(arrays["y_train"]) // 2
        for name, part in (("images", slice(half)), ("others", slice(half, None))):
            cut = {"x_train": arrays["x_train"][part], "y_train": arrays["y_train"][part]}
            np.savez(folder / f"{name}.npz", **{**arrays, **cut})
        self.data = folder / "images.npz"
        others = HalvesDataModule(ArrayDataModule(str(folder / "others.npz")))
        changes = [RandomCrop(padding=2), RandomFlip()]
        self.trained = ShortTraining(
            others, steps=options.steps, repeats=2, channels=8, cells=5, augmentations=changes, seed=1000
        )
        self.step_seconds = []
        self._known: dict[str, float] = {}
        self._random: list[float] = []

    def accuracy(self, architecture: Architecture) -> float:
        """Return the mean accuracy in percent of two trainings with 8 channels, 5 cells and ``--steps`` steps."""
        key = self.space.key(architecture)
        if key not in self._known:
            (found,) = self.trained.evaluate([architecture])
            self._known[key] = 100 * found.objectives["accuracy"]
        return self._known[key]

    def rank(self, accuracy: float) -> int:
        """Return the rank of an accuracy among random cells."""
        return 1 + sum(value > accuracy for value in self._random)

    def random_mean(self) -> float:
        """Return the mean accuracy of random cells."""
        if not self._random:
            generator, space = torch.Generator().manual_seed(2024), self.space
            self._random = [self.accuracy(space.sample(generator)) for _ in range(self.options.random_cells)]
        return statistics.mean(self._random)

    def config(self) -> dict[str, Any]:
        """Read the same configuration for the DARTS space, with a small supernet."""
        config = super().config()
        small = {"class_path": "DARTSSpace", "init_args": {"channels": 4, "cells": 3}}
        set_key(config, "stages.search.model.init_args.space", small)
        return config


class Seed:
    """The measurements of one seed.

    Args:
        bench: Data and reference accuracies.
        seed: Seed of the images and of all random choices.
    """

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.folder = bench.folder / str(seed)
        self.stages = bench.stages(seed, self.folder)
        self.found: dict[str, Any] = {"seed": seed}
        if bench.options.proxy:
            config = self.config_of("distill")
            self.found["distill_seconds"] = bench.fit(config, self.folder)[1]

    def config_of(self, name: str) -> dict[str, Any]:
        """Copy the configuration of a stage."""
        return deepcopy(self.stages[name].config)

    def record(self, name: str, architecture: Architecture) -> None:
        """Record a cell and its accuracy."""
        self.found[name] = self.bench.accuracy(architecture)
        self.found[f"{name}_cell"] = build_space(architecture.space).text(architecture)
        print(json.dumps(self.found), flush=True)

    def search(self, method: str) -> None:
        """Search with a file of ``configs/search``; a selection starts from the supernet of a DARTS search."""
        config, before, folder = self._search(method), 0.0, Path(self.stages["search"].arguments["output_dir"])
        arguments = config["model"]["init_args"]
        self.bench.step_seconds.clear()
        if "epochs_between" in arguments:
            first = self._search("darts")
            first["model"]["init_args"]["write_supernet"] = True
            before = self.bench.fit(first, self.folder / "darts")[1]
            arguments |= {"supernet_path": str(self.folder / "darts" / "supernet.safetensors"), "epochs_between": 1}
            config["trainer"]["max_epochs"] = NASBench201Space().edges
        if method == "gm_nas":
            task, seconds, folder = self._split(config)
        else:
            task, seconds = self.bench.fit(config, folder)
        self.record("search_alone", task.found)
        errors = read_json(folder / "architecture.json", repair="")["provenance"]["selection_errors"]
        self.found |= {kind: errors[kind] for kind in KINDS if errors and errors[kind]["count"]}
        steps = self.bench.step_seconds
        self.found |= {"seconds": before + seconds, "steps": len(steps), "step_ms": 1e3 * statistics.median(steps)}

    def _split(self, config: dict[str, Any]) -> tuple[Any, float, Path]:
        """Run GM-NAS: a third of the epochs with equal alphas, then one search per part; return the better one."""
        config["trainer"]["max_epochs"] = epochs = config["trainer"]["max_epochs"] // 3
        whole, split = deepcopy(config), deepcopy(config)
        whole["model"]["init_args"]["warmup_epochs"] = epochs
        _, seconds = self.bench.fit(whole, self.folder / "whole")
        split["model"] = read_yaml(CONFIGS / "search" / "gm_nas_split.yaml")["model"]
        supernet = str(self.folder / "whole" / "supernet.safetensors")
        split["model"]["init_args"] |= {"space": config["model"]["init_args"]["space"], "supernet_path": supernet}
        split["trainer"] |= {"max_epochs": 1, "limit_train_batches": 10}
        seconds += self.bench.fit(split, self.folder / "split")[1]
        found = []
        for number in (0, 1):
            part, folder = deepcopy(config), self.folder / f"part_{number}"
            narrowed = read_yaml(self.folder / "split" / f"search_{number}.yaml")
            part["model"]["init_args"] |= narrowed["model"]["init_args"]
            task, more = self.bench.fit(part, folder)
            seconds += more
            found.append((float(task.trainer.callback_metrics["search/loss"]), number, task, folder))
        _, _, task, folder = min(found)
        return task, seconds, folder

    def _search(self, method: str) -> dict[str, Any]:
        config = self.config_of("search")
        if method != "default":
            own = read_yaml(CONFIGS / "search" / f"{method}.yaml")
            shared = {key: config["model"]["init_args"][key] for key in SHARED if key in config["model"]["init_args"]}
            partial = own["model"]["init_args"]["space"]["init_args"].get("partial_channels")
            config["model"] = {**own["model"], "init_args": {**own["model"]["init_args"], **shared}}
            epochs, arguments = config["trainer"]["max_epochs"], config["model"]["init_args"]
            if partial:
                arguments["space"]["init_args"]["partial_channels"] = partial
            if "warmup_epochs" in arguments:
                arguments["warmup_epochs"] = round(epochs * arguments["warmup_epochs"] / own["trainer"]["max_epochs"])
            config["trainer"]["callbacks"] = callbacks = own["trainer"].get("callbacks") or []
            for each in callbacks:
                if "epoch" in each["init_args"]:  # the architecture is frozen after half of the epochs
                    each["init_args"]["epoch"] = epochs // 2
                if "kept" in each["init_args"]:  # phases, each one cell deeper
                    cells = arguments["space"]["init_args"]["cells"]
                    each["init_args"]["cells"] = [cells, cells + 1, cells + 2]
        arguments = config["model"]["init_args"]
        if self.bench.options.attention is not None:
            arguments["attention"] = self.bench.options.attention
        for part in self.bench.options.without:
            arguments[part] = [] if part == "regularizers" else None
            if part == "normalization":  # without which the discretizer has no edge alphas
                arguments["discretizer"] = {
                    "class_path": "lightning_nas.differentiable.discretization.softmax_score.SoftmaxScore"
                }
        return config

    def refine(self) -> None:
        """Run the next stage of the pipeline."""
        task, seconds = self.bench.fit(self.config_of("refine"), self.folder / "refined")
        self.record("accuracy", task.history.best[0])
        self.found["seconds"] += seconds

    def largest(self) -> None:
        """Refine the largest cell alone, with all neighbours, because no search has ranked them."""
        config = self.config_of("refine")
        config["model"]["init_args"]["strategy"]["init_args"] |= {"starts": [], "order": None, "neighbours": None}
        task, seconds = self.bench.fit(config, self.folder / "largest")
        self.record("largest_refine", task.history.best[0])
        self.found["largest_refine_seconds"] = seconds

    def random(self) -> None:
        """Evaluate random cells by the same short trainings in the same time."""
        config = self.config_of("refine")
        strategy = {"class_path": "lightning_nas.strategies.random_search.RandomSearch"}
        config["model"]["init_args"] |= {"strategy": strategy, "budget": 1000, "generation_size": 2}
        # the default of interval is an enum, which a configuration file cannot contain
        limits = {"duration": {"seconds": round(self.found["seconds"])}, "interval": "step"}
        timer = {"class_path": "Timer", "init_args": limits}
        config["trainer"]["callbacks"] = [timer]
        task, _ = self.bench.fit(config, self.folder / "random")
        self.record("best_of_k", task.history.best[0])
        self.found["k"] = len(task.history.results)


def measure(bench: Bench, seed: int) -> dict[str, Any]:
    """Run one seed."""
    run = Seed(bench, seed)
    run.search(bench.options.method)
    if bench.options.method == "default":
        run.refine()
        if not bench.options.alone:
            run.largest()
    else:
        run.found["accuracy"] = run.found["search_alone"]
    if not bench.options.alone:
        run.random()
    return run.found


def report(bench: Bench, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise all seeds."""

    def mean(name: str) -> float | None:
        values = [each[name] for each in runs if name in each]
        return statistics.mean(values) if values else None

    accuracies = [each["accuracy"] for each in runs]
    random = bench.random_mean()
    return {
        "method": bench.options.method,
        "without": bench.options.without,
        "attention": bench.options.attention,
        "seeds": len(runs),
        "mean_accuracy": statistics.mean(accuracies),
        "std_accuracy": statistics.stdev(accuracies) if len(runs) > 1 else 0.0,
        "search_alone_mean": mean("search_alone"),
        "search_alone_least": min(each["search_alone"] for each in runs),
        "largest_refine_mean": mean("largest_refine"),
        "median_rank": statistics.median(bench.rank(accuracy) for accuracy in accuracies),
        "random_mean": random,
        "best_of_k": mean("best_of_k"),
        "k": mean("k"),
        "largest": bench.accuracy(bench.space.largest()),
        **{f"selection_errors_{kind}": pooled([each[kind] for each in runs if kind in each]) for kind in KINDS},
        "seconds": mean("seconds"),
        "seconds_most": max(each["seconds"] for each in runs),
        "steps": mean("steps"),
        "steps_per_second": 1e3 / statistics.mean(each["step_ms"] for each in runs),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    others = ("gm_nas_split", "nasbench201_darts", "s1", "s2", "s3", "s4")  # part of another method, or spaces
    stems = sorted(path.stem for path in (CONFIGS / "search").glob("*.yaml"))
    methods = ["default", *(stem for stem in stems if stem not in others)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True, choices=["nasbench201", "darts"])
    parser.add_argument("--data", required=True, help="npz file of CIFAR-10")
    parser.add_argument(
        "--tables",
        default=os.environ.get("LIGHTNING_NAS_DATA"),
        help="folder of nasbench201.npz",
    )
    parser.add_argument(
        "--column",
        default="cifar10_test_200",
        help="column of the table with the reference accuracies (default: %(default)s)",
    )
    parser.add_argument("--method", required=True, choices=methods)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument(
        "--images",
        type=int,
        default=5000,
        help="training images of a search, in both halves together (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=int, help="epochs of a search (default: those of the pipeline)")
    parser.add_argument("--proxy", choices=["scheme1"], help="search on a distilled proxy instead of the images")
    parser.add_argument("--steps", type=int, default=400, help="steps of the reference trainings in the space darts")
    parser.add_argument("--random_cells", type=int, default=8, help="random cells to compare with in the space darts")
    parts = ["attention", "normalization", "regularizers"]
    parser.add_argument("--without", nargs="+", default=[], choices=parts, help="components to leave out")
    parser.add_argument("--attention", help="class of the attention to use instead of the method's own")
    parser.add_argument("--alone", action="store_true", help="leave out random cells and the largest cell")
    options = parser.parse_args(given)
    if options.tables is None and options.space == "nasbench201":
        parser.error("say --tables FOLDER or set LIGHTNING_NAS_DATA: the folder of nasbench201.npz")
    if options.space != "darts" and options.method in ("p_darts", "pc_darts"):
        parser.error(f"{options.method} is of --space darts: depths and partial channels are that space's")
    return options


def main(given: list[str] | None = None) -> None:
    """Measure, and print the result as JSON."""
    options = arguments_of(given)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = (Bench if options.space == "nasbench201" else TrainedBench)(options, Path(folder))
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        print(json.dumps(report(bench, [measure(bench, seed) for seed in seeds])))


if __name__ == "__main__":
    main()
