"""How well a supernet ranks cells while it is trained, against counting their parameters.

    OMP_NUM_THREADS=1 python -m benchmarks.supernet_ranks --data FILE.npz --tables FOLDER --steps 6000 --every 1000

A supernet of NAS-Bench-201's cells without ``none`` is trained at a constant rate on CIFAR-10 (FILE.npz, with
``x_train``, ``y_train``, ``x_test`` and ``y_test``). ``--paths`` chooses what a step trains: ``uniform`` and ``cost``
one path, ``sandwich`` the largest cell, a small one and two of all costs. ``--decay`` averages the weights
exponentially.

Every ``--every`` steps, cells are scored by their loss on held-out images. Kendall's tau with the test accuracy of the
table is measured over cells drawn uniformly (global) and from the truly best tenth (local), with 95 % bootstrap
intervals over cells. What a supernet has to be better than stands in the same table, on the same cells: their number of
parameters, and, as the most that any score could reach, the validation accuracy of the table after 12 and 200 epochs.
``regression`` predicts the loss of ``--trainings`` short trainings of other cells from the supernet's loss and the
logarithm of the parameters, by least squares, and ranks by what it predicts.

The last line is JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.evolve import OPERATIONS
from lightning_nas.architecture import Architecture
from lightning_nas.data import ArrayDataModule, HalvesDataModule, RandomCrop, RandomFlip
from lightning_nas.evaluation import ShortTraining
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.metrics.ranking import bootstrap_interval, kendall_tau
from lightning_nas.spaces import NASBench201Space
from lightning_nas.supernets import CostWindow, PathSampler, SandwichPaths, UniformPaths
from lightning_nas.supernets.scoring import fixed_images, score_paths
from lightning_nas.tables import NASBench201Table
from lightning_nas.tasks import SupernetTask

CELLS_SEED = 2024
"""Seed of the choice of cells."""
COSTS = "cifar10_params"
TRUTH = "cifar10_test_200"
EARLY = {"validation after 12 epochs": "cifar10_val_12", "validation after 200 epochs": "cifar10_val_200"}
SETS = ("local", "global")


class Cells:
    """The cells that are ranked, with what the table knows of them.

    Args:
        options: Options of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.table = NASBench201Table(str(Path(options.tables) / "nasbench201.npz"))
        self.space = NASBench201Space(
            channels=options.channels, cells_per_stage=options.cells, allowed={"cell": [OPERATIONS] * 6}
        )
        inside = [i for i in range(len(self.table)) if 0 not in self.table.architecture(i).choices]  # 0 is none
        truth = self.table.column(TRUTH)
        best = sorted(inside, key=lambda row: -truth[row])[: len(inside) // 10]
        generator = torch.Generator().manual_seed(CELLS_SEED)
        drawn = [inside[i] for i in torch.randperm(len(inside), generator=generator).tolist()]
        chosen = torch.randperm(len(best), generator=generator)[: options.architectures].tolist()
        self.rows = {"global": drawn[: options.architectures], "local": [best[i] for i in chosen]}
        self.others = drawn[options.architectures : options.architectures + options.trainings]

    def architectures(self, rows: Sequence[int]) -> list[Architecture]:
        """The cells of some rows of the table."""
        return [self.space.architecture(self.table.architecture(row).choices) for row in rows]

    def column(self, name: str, rows: Sequence[int]) -> list[float]:
        """A column of the table for some of its rows."""
        values: list[float] = self.table.column(name)[list(rows)].astype(float).tolist()
        return values

    def taus(self, scores: dict[str, list[float]], resamples: int) -> dict[str, Any]:
        """Kendall's tau and its interval, in both sets."""
        found: dict[str, Any] = {}
        for name in SETS:
            truth = self.column(TRUTH, self.rows[name])
            interval = bootstrap_interval(kendall_tau, scores[name], truth, resamples)
            found[f"{name}_tau"] = kendall_tau(scores[name], truth)
            found[f"{name}_interval"] = [interval.low, interval.high]
        return found


class Curve(Callback):
    """Scores all cells in every validation, while averaged weights are in place.

    Args:
        cells: The cells.
        options: Options of the command line.
    """

    def __init__(self, cells: Cells, options: argparse.Namespace) -> None:
        self.cells = cells
        self.options = options
        self.scores: dict[int, dict[str, list[float]]] = {}
        self._start = self._spent = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the seconds of the training."""
        self._start = time.perf_counter()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Score them, and print how well they are ranked."""
        task: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        start, options = time.perf_counter(), self.options
        held = fixed_images(data, data.validation_set, options.scored, 0)
        calibration, _ = fixed_images(data, data.train_set, options.calibration, 0)
        rows = {**self.cells.rows, "others": self.cells.others}
        scores = {}
        for name, chosen in rows.items():
            paths = [self.cells.space.to_path(cell) for cell in self.cells.architectures(chosen)]
            scores[name] = [-each["loss"] for each in score_paths(task.supernet, paths, calibration, [held])]
        self.scores[trainer.global_step] = scores
        self._spent += time.perf_counter() - start
        trained = time.perf_counter() - self._start - self._spent
        found = self.cells.taus(scores, options.resamples)
        shown = " ".join(f"{name} tau {found[f'{name}_tau']:.3f}" for name in SETS)
        print(f"step {trainer.global_step}, {trained:.0f} s: {shown}", flush=True)


def sampler(options: argparse.Namespace, cells: Cells) -> PathSampler:
    """What a step trains."""
    costs = cells.table.column(COSTS)
    lookup = TableLookup(cells.table, cost_columns=[COSTS])
    by_cost = partial(CostWindow, (float(costs.min()), float(costs.max())), cost_source=lookup, cost=COSTS)
    samplers = {"uniform": UniformPaths, "cost": by_cost, "sandwich": lambda: SandwichPaths(by_cost())}
    made: PathSampler = samplers[options.paths]()
    return made


def trained(options: argparse.Namespace, cells: Cells, data: ArrayDataModule, seed: int, folder: Path) -> Curve:
    """Train a supernet, and return the scores that it gave on the way."""
    task = SupernetTask(
        cells.space,
        optimizer=partial(torch.optim.SGD, lr=options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4),
        paths=sampler(options, cells),
        seed=seed,
        output_dir=str(folder),
        num_classes=data.num_classes,
        image_shape=data.image_shape,
    )
    curve = Curve(cells, options)
    averaged = [EMAWeightAveraging(decay=options.decay)] if options.decay else []
    Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=options.steps,
        val_check_interval=options.every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        gradient_clip_val=5.0,
        callbacks=[curve, *averaged],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
    ).fit(task, datamodule=data)
    return curve


def regression(cells: Cells, scores: dict[str, list[float]], losses: Sequence[float]) -> dict[str, list[float]]:
    """Scores that predict the loss of short trainings from the supernet's loss and the number of parameters.

    Args:
        cells: The cells.
        scores: The supernet's scores of all sets, the cells of the short trainings among them.
        losses: Losses of the short trainings.
    """

    def features(name: str, rows: Sequence[int]) -> Any:
        return np.column_stack([scores[name], np.log(cells.column(COSTS, rows)), np.ones(len(rows))])

    weights, *_ = np.linalg.lstsq(features("others", cells.others), np.array(losses), rcond=None)
    return {name: (-features(name, cells.rows[name]) @ weights).tolist() for name in SETS}


def one_seed(options: argparse.Namespace, cells: Cells, seed: int, folder: Path) -> list[dict[str, Any]]:
    """The rows of one supernet: one for every look at it, and one with the number of parameters beside it."""
    data = ArrayDataModule(
        path=options.data,
        train_limit=options.images,
        image_size=options.size,
        batch_size=options.batch_size,
        validation_fraction=0.1,
        augmentations=[RandomCrop(padding=2), RandomFlip()],
        split_seed=seed,
    )
    curve = trained(options, cells, data, seed, folder)
    rows = [
        {"score": f"{options.paths}, {step} steps", "seed": seed, **cells.taus(scores, options.resamples)}
        for step, scores in curve.scores.items()
    ]
    if options.trainings:
        plain = ArrayDataModule(path=options.data, train_limit=options.images, image_size=options.size)
        sizes = {"channels": options.channels, "cells": options.cells}
        training = ShortTraining(HalvesDataModule(plain), steps=options.training_steps, online=True, seed=seed, **sizes)
        losses = [each.objectives["loss"] for each in training.evaluate(cells.architectures(cells.others))]
        last = regression(cells, curve.scores[max(curve.scores)], losses)
        rows.append({"score": "regression", "seed": seed, **cells.taus(last, options.resamples)})
    return rows


def baselines(options: argparse.Namespace, cells: Cells) -> list[dict[str, Any]]:
    """The rows of what needs no supernet."""
    columns = {"parameters": COSTS, **EARLY}
    return [
        {
            "score": label,
            **cells.taus({name: cells.column(column, cells.rows[name]) for name in SETS}, options.resamples),
        }
        for label, column in columns.items()
    ]


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="npz of CIFAR-10")
    parser.add_argument("--tables", default=os.environ.get("LIGHTNING_NAS_DATA"), help="folder of nasbench201.npz")
    parser.add_argument("--paths", default="sandwich", choices=["uniform", "cost", "sandwich"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=25_000, help="largest number of training images")
    parser.add_argument("--size", type=int, default=16, help="side in pixels that images are averaged to")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=1, help="cells per stage")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--every", type=int, default=1000, help="steps between two looks at the ranks")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=0.999, help="decay of the averaged weights; 0 for none")
    parser.add_argument("--architectures", type=int, default=100, help="cells in each set")
    parser.add_argument("--scored", type=int, default=1000, help="held-out images that cells are scored on")
    parser.add_argument("--calibration", type=int, default=2000, help="images for the statistics of batch norm")
    parser.add_argument("--trainings", type=int, default=16, help="short trainings of the regression; 0 for none")
    parser.add_argument("--training_steps", type=int, default=120, help="steps of a short training")
    parser.add_argument("--resamples", type=int, default=1000, help="resamples of cells that intervals are taken over")
    options = parser.parse_args(given)
    if options.tables is None:
        parser.error("set --tables or LIGHTNING_NAS_DATA to the folder of nasbench201.npz")
    return options


def main(given: list[str] | None = None) -> None:
    """Train, print a table, and end with a line of JSON."""
    options = arguments_of(given)
    start, cells = time.perf_counter(), Cells(options)
    rows = baselines(options, cells)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows += one_seed(options, cells, seed, Path(folder))
    print(f"{'':32}{'local tau':>18}{'global tau':>18}")
    for label in dict.fromkeys(row["score"] for row in rows):
        same = [row for row in rows if row["score"] == label]
        shown = []
        for name in SETS:
            taus = [row[f"{name}_tau"] for row in same]
            shown.append(f"{statistics.mean(taus):.3f} ± {statistics.stdev(taus) if len(taus) > 1 else 0:.3f}")
        print(f"{label:32}" + "".join(f"{each:>18}" for each in shown))
    print(json.dumps({"rows": rows, "seconds": round(time.perf_counter() - start, 1)}))


if __name__ == "__main__":
    main()
