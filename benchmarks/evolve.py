"""How well supernets rank before and after they are searched, against the table of NAS-Bench-201.

    python -m benchmarks.evolve --data FILE.npz --tables FOLDER --method shifting --seeds 3

FILE.npz holds CIFAR-10 (``x_train``, ``y_train``, ``x_test``, ``y_test``). Its images are averaged down to 8x8 pixels,
so that a CPU trains a supernet in two minutes: 8 channels, one cell per stage, without the operation ``none``. A tenth
of the training images is held out for scores; the score is the loss. An initial supernet is trained at a constant
learning rate on paths of all sizes equally often (with uniform paths or a falling rate it ranks worse), and then:

- before: searched by evolution, without any further training;
- after: Supernet Shifting, the same evolution with training on every generation, one update per batch;
- accumulated: the same with one update for all cells of a generation, so that there are fewer updates;
- longer: trained for as many more batches on uniform paths, then searched by evolution;
- by_cost: trained for as many more batches on paths of all sizes equally often, then searched by evolution;
- frozen: Supernet Shifting that trains only the classifier.

Kendall's tau with the true test accuracies is measured over architectures drawn uniformly (global) and from the truly
best tenth (local), the same for all variants. The last line is JSON: means and standard deviations over the seeds;
``gain_interval`` is the 95 % interval of the gain in local tau from longer to after, over resamples of seeds and
architectures.

The method transfer moves the initial supernet to CIFAR-100 (``--target``) by Supernet Shifting, and compares it with
supernets that are trained only there, for as many batches (scratch) and for twice as many; the interval is that of the
gain over scratch. The methods nevonas, pevonas and dcnas are described in ``benchmarks/evolve_methods.py``.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.output import claim, digest
from benchmarks.rank_gains import gain_interval
from lightning_nas.architecture import Architecture
from lightning_nas.cli.lightning import run
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.metrics.ranking import kendall_tau
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.nasbench201 import NASBench201Table

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
OPERATIONS = ["skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
SIDE = 8
HELD_OUT = 0.1
"""Fraction of the training images that is held out for scores."""
SCORED = 1000
"""Number of held-out images per score."""
BATCH = 64
VARIANTS = {
    "shifting": ("before", "after", "accumulated", "longer", "by_cost", "frozen"),
    "transfer": ("transfer", "scratch", "scratch_twice"),
}
COMPARED = {"shifting": ("longer", "after"), "transfer": ("scratch", "transfer")}


def smaller(source: str, target: Path, train: int) -> Path:
    """Write the first images of a file, averaged down to ``SIDE``."""
    arrays = dict(np.load(source))
    for name in ("x_train", "x_test"):
        images = arrays[name][: train if name == "x_train" else None]
        factor = images.shape[1] // SIDE
        blocks = images.reshape(len(images), SIDE, factor, SIDE, factor, 3).mean((2, 4))
        arrays[name] = blocks.round().astype(np.uint8)
    arrays["y_train"] = arrays["y_train"][:train]
    np.savez(target, **arrays)
    return target


class Bench:
    """One data set and one size of supernets.

    Args:
        options: Options of the command line.
        folder: Folder of all runs.
        data: The npz file of the images, of side ``SIDE``.
        column: The column of the table with the true accuracies.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, data: Path, column: str = "cifar10_test_200") -> None:
        self.options = options
        self.folder = folder
        table = NASBench201Table(str(Path(options.tables) / "nasbench201.npz"))
        self.accuracies = table.column(column)
        self.table = table
        allowed = {"cell": [OPERATIONS] * 6}
        self.sizes = {"channels": options.channels, "cells_per_stage": options.cells, "allowed": allowed}
        self.space = NASBench201Space(**self.sizes)
        flips = [{"class_path": "lightning_nas.data.augmentation.RandomFlip"}]
        self.images = {"path": str(data), "validation_fraction": HELD_OUT, "augmentations": flips, "batch_size": BATCH}
        with np.load(data) as arrays:
            self.count = int((1 - HELD_OUT) * len(arrays["y_train"]))
        generator = torch.Generator().manual_seed(2024)
        self.sets = {"global": self._different(options.architectures, self.space.sample, generator)}
        inside = [row for row in range(len(table)) if self._holds(table.architecture(row))]
        top = sorted(inside, key=lambda row: -self.accuracies[row])[: len(inside) // 10]
        drawn = torch.randperm(len(top), generator=generator)[: options.architectures].tolist()
        self.sets["local"] = [self.space.architecture(table.architecture(top[i]).choices) for i in drawn]
        self.ranked = sorted((self.accuracies[row] for row in inside), reverse=True)

    def _holds(self, architecture: Architecture) -> bool:
        return 0 not in architecture.choices  # none

    def _different(self, count: int, sample: Any, generator: torch.Generator) -> list[Architecture]:
        found: dict[str, Architecture] = {}
        while len(found) < count:
            drawn = sample(generator)
            found[self.space.key(drawn)] = drawn
        return list(found.values())

    def fit(self, config: str, folder: Path, seed: int, changes: dict[str, Any]) -> Any:
        """Run a file of ``configs`` with changes, and return its task."""
        folder.mkdir(parents=True)
        space = {"init_args": self.sizes}
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        quiet |= {"devices": 1, "enable_model_summary": False, "default_root_dir": str(folder)}
        own = {
            "seed_everything": seed,
            "model": {"init_args": {"space": space, "seed": seed, "output_dir": str(folder)}},
        }
        whole = merge(merge(merge(read_yaml(CONFIGS / config), own), {"trainer": quiet}), changes)
        written = folder / "config.yaml"
        written.write_text(yaml.safe_dump(whole))
        return run(["fit", "--config", str(written), "--run_folder.overwrite", "true"]).model

    def train(
        self,
        folder: Path,
        seed: int,
        steps: int,
        lr: float,
        start: str | None = None,
        constant: bool = False,
        by_cost: bool = False,
    ) -> str:
        """Train a supernet on single paths, and return its file.

        Args:
            folder: Folder of the run.
            seed: Seed of everything random.
            steps: Number of batches, one path each.
            lr: Learning rate.
            start: File of the supernet to start from; None for new weights.
            constant: Whether the learning rate stays constant; otherwise it falls to 0 along a cosine.
            by_cost: Whether paths of all sizes are trained equally often; otherwise paths are uniform.
        """
        found = folder / "supernet.safetensors"
        if found.is_file():  # another method has trained it in the same folder
            return str(found)
        data = {"class_path": "lightning_nas.data.images.ArrayDataModule", "init_args": self.images}
        model: dict[str, Any] = {"optimizer": {"init_args": {"lr": lr}}, "supernet_path": start}
        if constant:
            model["scheduler"] = None
        if by_cost:
            path = str(Path(self.options.tables) / "nasbench201.npz")
            table = {"class_path": "lightning_nas.tables.nasbench201.NASBench201Table", "init_args": {"path": path}}
            known = {"table": table, "cost_columns": ["cifar10_params"]}
            costs = {"class_path": "lightning_nas.evaluation.table.TableLookup", "init_args": known}
            model["paths"] = {"init_args": {"cost_source": costs, "cost": "cifar10_params"}}
        # the scheduler falls to 0 over the epochs that the steps fill
        epochs = -(-steps // (self.count // BATCH))
        trainer = {"max_steps": steps, "max_epochs": epochs, "check_val_every_n_epoch": epochs, "limit_val_batches": 0}
        config = "supernet/cost_window.yaml" if by_cost else "supernet/uniform.yaml"
        self.fit(config, folder, seed, {"model": {"init_args": model}, "data": data, "trainer": trainer})
        return str(found)

    def search(self, folder: Path, seed: int, supernet: str, config: str, shift: dict[str, Any]) -> Architecture:
        """Search a supernet with a file of ``configs``, and return the best architecture.

        Args:
            folder: Folder of the run.
            seed: Seed of everything random.
            supernet: File of the supernet.
            config: Name of the configuration.
            shift: Arguments of ``Shifting``; empty for a supernet that is not trained during the search.
        """
        data = {"class_path": "lightning_nas.data.images.ArrayDataModule", "init_args": self.images}
        options = self.options
        model: dict[str, Any] = {
            "strategy": {"init_args": {"parents": options.population // 4}},
            "evaluator": {"init_args": {"supernet_path": supernet, "data": data, "images": SCORED}},
            "objective": "loss",
            "budget": options.generations * options.population,
            "generation_size": options.population,
        }
        if shift:
            model["shifting"] = {"init_args": shift}
        task = self.fit(config, folder, seed, {"model": {"init_args": model}})
        found: Architecture = task.history.best[0]
        return found

    def scores(self, supernet: str) -> dict[str, list[float]]:
        """Scores of both sets by a supernet; higher is better."""
        data = ArrayDataModule(**{**self.images, "augmentations": None})
        evaluator = SupernetEvaluator(supernet, data=data, images=SCORED)
        return {
            name: [-each.objectives["loss"] for each in evaluator.evaluate(architectures)]
            for name, architectures in self.sets.items()
        }

    def targets(self, name: str) -> list[float]:
        """True accuracies of the architectures of a set."""
        return [float(value) for value in self.accuracies[self.table.rows(self.sets[name])]]

    @property
    def shift(self) -> dict[str, Any]:
        """Arguments of ``Shifting`` for a search that trains the supernet."""
        optimizer = {"init_args": {"lr": self.options.shift_lr}}
        return {"optimizer": optimizer, "steps": self.options.shift_steps, "accumulate": False}

    @property
    def batches(self) -> int:
        """Number of batches that such a search trains on."""
        return int(self.options.generations * self.options.population * self.options.shift_steps)


class Run:
    """The variants of one seed, with their seconds.

    Args:
        bench: The bench.
        seed: The seed.
    """

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.seed = seed
        self.folder = bench.folder / str(seed)
        self.seconds: dict[str, float] = {}
        self.found: dict[str, Architecture] = {}
        self.files: dict[str, str] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        """Note the seconds since the last lap."""
        self.seconds[name] = time.perf_counter() - self._start
        self._start = time.perf_counter()

    def train(self, name: str, steps: int, lr: float, start: str | None = None, by_cost: bool = False) -> str:
        """Train at a constant learning rate; see ``Bench.train``."""
        folder = self.folder / f"{name}_trained"
        found = self.bench.train(folder, self.seed, steps, lr, start, constant=True, by_cost=by_cost)
        self.lap(f"{name}_trained")
        return found

    def search(self, name: str, supernet: str, config: str = "evolve/spos.yaml", **shift: Any) -> None:
        """Search a supernet; see ``Bench.search``."""
        folder = self.folder / name
        self.found[name] = self.bench.search(folder, self.seed, supernet, config, shift)
        self.files[name] = str(folder / "supernet.safetensors") if shift else supernet
        self.lap(name)

    def result(self) -> dict[str, Any]:
        """Scores by the supernets of all variants, and true accuracies of the architectures that they found."""
        bench = self.bench
        scores = {name: bench.scores(file) for name, file in self.files.items()}
        self.lap("scores")
        rows = bench.table.rows(list(self.found.values()))
        accuracies = dict(zip(self.found, (float(value) for value in bench.accuracies[rows]), strict=True))
        print(json.dumps({"seed": self.seed, "found": accuracies, "seconds": self.seconds}), flush=True)
        return {"scores": scores, "found": accuracies, "seconds": self.seconds}


def shifting(bench: Bench, seed: int) -> dict[str, Any]:
    """Run all variants of a seed from one initial supernet."""
    run, options = Run(bench, seed), bench.options
    start = run.train("start", options.steps, options.lr, by_cost=True)
    run.search("before", start)
    run.search("after", start, "evolve/supernet_shifting.yaml", **bench.shift)
    run.search("accumulated", start, "evolve/supernet_shifting.yaml", **{**bench.shift, "accumulate": True})
    run.search("longer", run.train("longer", bench.batches, options.shift_lr, start))
    run.search("by_cost", run.train("by_cost", bench.batches, options.shift_lr, start, by_cost=True))
    run.search("frozen", start, "evolve/supernet_shifting.yaml", **bench.shift, frozen_body=True)
    return run.result()


def transfer(bench: Bench, seed: int) -> dict[str, Any]:
    """Move a supernet of CIFAR-10 to the classes of the bench, and train others only there."""
    options = bench.options
    source = Bench(options, bench.folder, bench.folder / "smaller.npz")
    start = Run(source, seed).train("start", options.steps, options.lr, by_cost=True)
    run = Run(bench, seed)
    shift = {**bench.shift, "optimizer": {"init_args": {"lr": options.lr}}}  # the same as from scratch
    run.search("transfer", start, "evolve/transfer.yaml", **shift)
    run.search("scratch", run.train("scratch", bench.batches, options.lr, by_cost=True))
    run.search("scratch_twice", run.train("scratch_twice", 2 * bench.batches, options.lr, by_cost=True))
    return run.result()


def one_seed(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """Run one seed in a process of its own."""
    torch.set_num_threads(1)
    method = {"shifting": shifting, "transfer": transfer}.get(options.method)
    return (method or _others()[options.method][0])(made(options, folder), seed)


def _others() -> Any:
    """Methods with measurements of their own, which import this module."""
    from benchmarks.evolve_methods import METHODS

    return METHODS


def made(options: argparse.Namespace, folder: Path) -> Bench:
    """Make the bench of the method."""
    if options.method == "transfer":
        return Bench(options, folder, folder / "target.npz", "cifar100_test_200")
    return Bench(options, folder, folder / "smaller.npz")


def report(bench: Bench, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print a table of all seeds, and return the line of JSON."""
    method = bench.options.method
    line: dict[str, Any] = {"method": method, "seeds": len(runs)}
    targets = {name: bench.targets(name) for name in bench.sets}
    print(f"{'':14}{'local tau':>18}{'global tau':>18}{'found accuracy':>18}{'rank':>14}")
    for variant in VARIANTS[method]:
        shown = []
        for name in ("local", "global"):
            taus = [kendall_tau(each["scores"][variant][name], targets[name]) for each in runs]
            line[f"{name}_tau_{variant}"] = spread(taus)
            shown.append("{:.3f} ± {:.3f}".format(*spread(taus)))
        accuracies = [each["found"][variant] for each in runs]
        line[f"found_accuracy_{variant}"] = spread(accuracies)
        ranks = [1 + int(sum(value > accuracy for value in bench.ranked)) for accuracy in accuracies]
        line[f"found_rank_{variant}"] = statistics.median(ranks)
        shown.append("{:.2f} ± {:.2f}".format(*spread(accuracies)))
        print(f"{variant:14}" + "".join(f"{each:>18}" for each in shown) + f"{statistics.median(ranks):>14}")
    for name in ("local", "global"):
        worse, better = ([each["scores"][variant][name] for each in runs] for variant in COMPARED[method])
        interval = gain_interval(worse, better, targets[name], kendall_tau, samples=bench.options.resamples)
        line["gain_interval" if name == "local" else "global_gain_interval"] = list(interval)
    line["feasible"] = len(bench.ranked)
    return line


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the supernets in an output folder depend on."""
    names = ("images", "channels", "cells", "steps", "lr", "generations", "population", "shift_steps", "shift_lr")
    return {"data_sha256": digest(options.data), **{name: getattr(options, name) for name in names}}


def spread(values: Sequence[float]) -> list[float]:
    """Mean and standard deviation."""
    return [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0]


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="npz of CIFAR-10")
    parser.add_argument("--tables", default=os.environ.get("LIGHTNING_NAS_DATA"), help="folder of nasbench201.npz")
    parser.add_argument("--target", help="npz of CIFAR-100, for transfer")
    parser.add_argument("--method", required=True, choices=["shifting", "transfer", "nevonas", "pevonas", "dcnas"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=40_000, help="largest number of training images")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=1, help="cells per stage")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of the initial supernet")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--shift_steps", type=int, default=4, help="batches per architecture and generation")
    parser.add_argument("--shift_lr", type=float, default=0.01)
    parser.add_argument("--architectures", type=int, default=100, help="size of each set that tau is measured on")
    parser.add_argument("--brief_steps", type=int, default=40, help="steps of a training of dcnas")
    parser.add_argument("--resamples", type=int, default=1000, help="resamples for intervals; a fifth of them in dcnas")
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        help="number of seeds that run at the same time, each with one thread; 1: one after the other, in this process",
    )
    parser.add_argument("--out", help="folder of all runs, initial supernets included; a temporary one by default")
    options = parser.parse_args(given)
    if options.tables is None:
        parser.error("set --tables or LIGHTNING_NAS_DATA to the folder of nasbench201.npz")
    if options.method == "transfer" and options.target is None:
        parser.error("set --target to the npz file of CIFAR-100")
    return options


def main(given: list[str] | None = None) -> None:
    """Run the benchmark; the last line is JSON."""
    options = arguments_of(given)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary)
        claim(folder, settings_of(options))
        smaller(options.data, folder / "smaller.npz", options.images)
        if options.target:
            smaller(options.target, folder / "target.npz", options.images)
        start = time.perf_counter()
        run = partial(one_seed, options, folder)
        if options.processes == 1:
            runs = [run(seed) for seed in range(options.seeds)]
        else:
            with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
                runs = list(pool.map(run, range(options.seeds)))
        reported = report if options.method in VARIANTS else _others()[options.method][1]
        line = {"method": options.method, "seeds": options.seeds, **reported(made(options, folder), runs)}
        print(json.dumps({**line, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
