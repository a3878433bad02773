"""Supernets that are searched: what their ranks are worth before and after, against the table of NAS-Bench-201.

    python -m benchmarks.evolve --data FILE.npz --tables FOLDER --method shifting --seeds 3

FILE.npz has CIFAR-10 (``x_train``, ``y_train``, ``x_test``, ``y_test``), whose images are averaged down to 8x8 so that
a CPU trains a supernet in a minute: 8 channels, one cell a stage, without the operation ``none``. A tenth of the
training images is held out for scores; the score is the loss. A starting supernet is trained on uniform paths, then
compared:

- before: as it is, searched by evolution;
- after: Supernet Shifting, the same evolution with training on every generation;
- longer: as many more batches on uniform paths, then searched by evolution;
- frozen: Supernet Shifting that trains the classifier alone.

Kendall's tau with the true test accuracies, over architectures drawn uniformly (global) and from the true best tenth
(local), the same for all. The last line is JSON: means and deviations over the seeds; ``gain_interval`` is the 95 %
interval of local tau after less longer, over resamples of seeds and architectures.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas.architecture import Architecture
from lightning_nas.cli import run
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.evaluation.supernet import SupernetScores
from lightning_nas.metrics.ranking import gain_interval, kendall_tau
from lightning_nas.pipeline_config import merge, read_yaml
from lightning_nas.spaces.nasbench201 import NASBench201Space
from lightning_nas.tables.nasbench201 import NASBench201Table

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
OPERATIONS = ["skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
SIDE = 8
VARIANTS = ("before", "after", "longer", "frozen")


def smaller(source: str, target: Path, train: int) -> Path:
    """The first images of a file, averaged down."""
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
        options: The command line's.
        folder: Of what is written.
        data: Images of the right size.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, data: Path) -> None:
        self.options = options
        self.folder = folder
        table = NASBench201Table(str(Path(options.tables) / "nasbench201.npz"))
        self.truth = table.column("cifar10_test_200")
        self.table = table
        allowed = {"cell": [OPERATIONS] * 6}
        self.sizes = {"channels": options.channels, "cells_per_stage": options.cells, "allowed": allowed}
        self.space = NASBench201Space(**self.sizes)
        changes = [
            {"class_path": "lightning_nas.data.augmentation.RandomCrop", "init_args": {"padding": 1}},
            {"class_path": "lightning_nas.data.augmentation.RandomFlip"},
        ]
        self.images = {"path": str(data), "validation_fraction": 0.1, "augmentations": changes, "batch_size": 64}
        generator = torch.Generator().manual_seed(2024)
        self.sets = {"global": self._different(options.architectures, self.space.sample, generator)}
        inside = [row for row in range(len(table)) if self._holds(table.architecture(row))]
        top = sorted(inside, key=lambda row: -self.truth[row])[: len(inside) // 10]
        drawn = torch.randperm(len(top), generator=generator)[: options.architectures].tolist()
        self.sets["local"] = [self.space.architecture(table.architecture(top[i]).choices) for i in drawn]
        self.ranked = sorted((self.truth[row] for row in inside), reverse=True)

    def _holds(self, architecture: Architecture) -> bool:
        return 0 not in architecture.choices  # none

    def _different(self, count: int, sample: Any, generator: torch.Generator) -> list[Architecture]:
        found: dict[str, Architecture] = {}
        while len(found) < count:
            drawn = sample(generator)
            found[self.space.key(drawn)] = drawn
        return list(found.values())

    def fit(self, config: str, folder: Path, seed: int, changes: dict[str, Any]) -> Any:
        """Run a file of ``configs`` with changes; the task."""
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
        return run(["fit", "--config", str(written)]).model

    def train(self, folder: Path, seed: int, steps: int, lr: float, start: str | None = None) -> str:
        """Train a supernet on uniform paths; its file."""
        data = {"class_path": "lightning_nas.data.images.ArrayDataModule", "init_args": self.images}
        model: dict[str, Any] = {"optimizer": {"init_args": {"lr": lr}}, "supernet": start}
        # the scheduler falls to 0 over the epochs that the steps fill
        epochs = -(-steps // (int(0.9 * self.options.images) // 64))
        trainer = {"max_steps": steps, "max_epochs": epochs, "check_val_every_n_epoch": epochs, "limit_val_batches": 0}
        self.fit(
            "supernet/uniform.yaml", folder, seed, {"model": {"init_args": model}, "data": data, "trainer": trainer}
        )
        return str(folder / "supernet.safetensors")

    def search(self, folder: Path, seed: int, supernet: str, shift: dict[str, Any] | None) -> Architecture:
        """Search a supernet; the architecture that was found. With ``shift`` it is trained on the way."""
        data = {"class_path": "lightning_nas.data.images.ArrayDataModule", "init_args": self.images}
        options = self.options
        model: dict[str, Any] = {
            "strategy": {"init_args": {"parents": options.population // 4}},
            "evaluator": {"init_args": {"supernet": supernet, "data": data}},
            "objective": "loss",
            "budget": options.generations * options.population,
            "generation": options.population,
        }
        if shift is not None:
            given = {"optimizer": {"init_args": {"lr": options.shift_lr}}, "steps": options.shift_steps, **shift}
            model["shifting"] = {"init_args": given}
        config = "evolve/spos.yaml" if shift is None else "evolve/supernet_shifting.yaml"
        task = self.fit(config, folder, seed, {"model": {"init_args": model}})
        found: Architecture = task.search.best[0]
        return found

    def scores(self, supernet: str) -> dict[str, list[float]]:
        """What a supernet says of both sets; higher is better."""
        evaluator = SupernetScores(supernet, ArrayDataModule(**{**self.images, "augmentations": None}))
        return {
            name: [-each.objectives["loss"] for each in evaluator.evaluate(architectures)]
            for name, architectures in self.sets.items()
        }

    def truths(self, name: str) -> list[float]:
        """True accuracies of a set."""
        return [float(value) for value in self.truth[self.table.rows(self.sets[name])]]

    def shifting(self, seed: int) -> dict[str, Any]:
        """All four variants of a seed."""
        options, folder, seconds = self.options, self.folder / str(seed), {}
        more = options.generations * options.population * options.shift_steps
        start = time.perf_counter()

        def lap(name: str) -> None:
            nonlocal start
            seconds[name] = time.perf_counter() - start
            start = time.perf_counter()

        before = self.train(folder / "start", seed, options.steps, options.lr)
        lap("start")
        found = {"before": self.search(folder / "before", seed, before, None)}
        lap("before")
        found["after"] = self.search(folder / "after", seed, before, {})
        lap("after")
        longer = self.train(folder / "more", seed + 1000, more, options.shift_lr, before)
        found["longer"] = self.search(folder / "longer", seed, longer, None)
        lap("longer")
        found["frozen"] = self.search(folder / "frozen", seed, before, {"frozen_body": True})
        lap("frozen")
        files = {"before": before, "longer": longer}
        files |= {name: str(folder / name / "supernet.safetensors") for name in ("after", "frozen")}
        scores = {name: self.scores(files[name]) for name in VARIANTS}
        lap("scores")
        rows = self.table.rows(list(found.values()))
        accuracies = dict(zip(found, (float(value) for value in self.truth[rows]), strict=True))
        print(json.dumps({"seed": seed, "found": accuracies, "seconds": seconds}), flush=True)
        return {"scores": scores, "found": accuracies, "seconds": seconds}


def report(bench: Bench, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print the table of all seeds; the line of JSON."""
    line: dict[str, Any] = {"method": "shifting", "seeds": len(runs)}
    truths = {name: bench.truths(name) for name in bench.sets}
    print(f"{'':8}{'local tau':>18}{'global tau':>18}{'found accuracy':>18}{'rank':>14}")
    for variant in VARIANTS:
        shown = []
        for name in ("local", "global"):
            taus = [kendall_tau(each["scores"][variant][name], truths[name]) for each in runs]
            line[f"{name}_tau_{variant}"] = spread(taus)
            shown.append("{:.3f} ± {:.3f}".format(*spread(taus)))
        accuracies = [each["found"][variant] for each in runs]
        line[f"found_accuracy_{variant}"] = spread(accuracies)
        ranks = [1 + int(sum(value > accuracy for value in bench.ranked)) for accuracy in accuracies]
        line[f"found_rank_{variant}"] = statistics.median(ranks)
        shown.append("{:.2f} ± {:.2f}".format(*spread(accuracies)))
        print(f"{variant:8}" + "".join(f"{each:>18}" for each in shown) + f"{statistics.median(ranks):>14}")
    local = {name: [each["scores"][name]["local"] for each in runs] for name in VARIANTS}
    interval = gain_interval(local["longer"], local["after"], truths["local"], kendall_tau)
    line["gain_interval"] = [interval.low, interval.high]
    line["feasible"] = len(bench.ranked)
    line["seconds"] = sum(sum(each["seconds"].values()) for each in runs)
    return line


def spread(values: Sequence[float]) -> list[float]:
    """Mean and deviation."""
    return [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0]


def main() -> None:
    """Measure, print, and end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="npz of CIFAR-10")
    parser.add_argument("--tables", default=os.environ.get("LIGHTNING_NAS_DATA"), help="folder of nasbench201.npz")
    parser.add_argument("--method", required=True, choices=["shifting"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="training images that are used")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=1, help="a stage")
    parser.add_argument("--steps", type=int, default=3200, help="of the starting supernet")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--shift_steps", type=int, default=4, help="batches an architecture and generation")
    parser.add_argument("--shift_lr", type=float, default=0.01)
    parser.add_argument("--architectures", type=int, default=100, help="of each set that taus are measured on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="folder of what is written; a temporary one by default")
    options = parser.parse_args()
    if options.tables is None:
        parser.error("say --tables FOLDER or set LIGHTNING_NAS_DATA: the folder of nasbench201.npz")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(options, folder, smaller(options.data, folder / "smaller.npz", options.images))
        runs = [bench.shifting(seed) for seed in range(options.seeds)]
        print(json.dumps(report(bench, runs)))


if __name__ == "__main__":
    main()
