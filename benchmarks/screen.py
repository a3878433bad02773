"""Screening by zero-cost scores, judged by a table of known results.

    OMP_NUM_THREADS=1 python -m benchmarks.screen --images FILE.npz --data FOLDER --dataset cifar10 --seeds 5

Cells of NAS-Bench-201 without ``none`` are screened on a few of 5,000 images averaged down to 16x16; nothing is
trained, and only the test accuracy of what was found is looked up. ``--first_seed 5`` takes seeds that settings were
not chosen on, ``--cap 0.5`` keeps to cells of at most the median number of parameters. With ``--race`` the eight best
cells of every screen then compete in short trainings, as by ``configs/evolve/race.yaml``. The baselines are the largest
cell that is allowed, the best of the table, and the mean of the table. Prints a table; the last line is JSON. FILE.npz
has the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test`` of the data set.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas.architecture import Architecture
from lightning_nas.data import ArrayDataModule, HalvesDataModule, RandomCrop, RandomFlip
from lightning_nas.evaluation import Parallel, Processes, ShortTraining, ZeroCost
from lightning_nas.spaces import ConstrainedSpace, NASBench201Space
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.strategies import QueryHistory, Race, Screen
from lightning_nas.tables import NASBench201Table

OPERATIONS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def allowed(table: NASBench201Table, space: SearchSpace, column: str, cap: float | None) -> SearchSpace:
    """The space, or its cells of at most a quantile of the number of parameters."""
    if cap is None:
        return space
    cells = torch.cartesian_prod(*[torch.arange(len(OPERATIONS))] * 6).tolist()
    counts = table.lookup_many([space.architecture(choices) for choices in cells], column)
    bound = float(statistics.quantiles(counts, n=1000)[round(1000 * cap) - 1])
    return ConstrainedSpace(space, lambda a: {"parameters": table.lookup(a, column)}, {"parameters": bound})


def images_of(path: Path, seed: int) -> ArrayDataModule:
    """The images of a search."""
    return ArrayDataModule(path=str(path), train_limit=5000, image_size=16, seed=seed)


def screened(space: SearchSpace, images: Path, seed: int, folder: Path) -> tuple[Architecture, float, int]:
    """One screen: the cell that was found, its seconds, and the number of cells that were scored."""
    data = images_of(images, seed)
    data.prepare_data()
    data.setup("fit")
    evaluator, strategy = ZeroCost(data=data, seed=seed), Screen()
    start = time.perf_counter()
    strategy.start(space, "zero_cost", seed)
    history = QueryHistory(space, evaluator, 10_000, "zero_cost")
    while history.step(strategy, 1000):
        pass
    seconds = time.perf_counter() - start
    history.write(folder)
    return history.best[0], seconds, len(strategy.evaluated)


def raced(
    space: SearchSpace, images: Path, seed: int, folder: Path, options: argparse.Namespace
) -> tuple[Architecture, float, Race]:
    """A race of the best of a screen: the winner, the seconds, and the strategy."""
    halves = HalvesDataModule(images_of(images, seed), batch_size=options.batch_size)
    halves.prepare_data()
    halves.setup("fit")
    training = ShortTraining(
        halves,
        steps=options.steps,
        batch_size=options.batch_size,
        channels=8,
        cells=3,
        augmentations=[RandomCrop(padding=2), RandomFlip()],
        seed=seed,
        online=True,
        classes=options.classes,
    )
    evaluator = Parallel(training, Processes(options.workers))
    strategy = Race(
        [str(folder / "architecture.json")],
        str(folder / "history.json"),
        options.count,
        options.rounds,
        confidence=options.confidence,
    )
    start = time.perf_counter()
    strategy.start(space, "loss", seed)
    history = QueryHistory(space, evaluator, 10_000, "loss")
    while history.step(strategy, 100):
        pass
    evaluator.close()
    return history.best[0], time.perf_counter() - start, strategy


def main() -> None:
    """Measure, print, and end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="npz file with x_train, y_train, x_test, y_test")
    parser.add_argument("--dataset", default="cifar10", help="data set of the table's columns")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--cap", type=float, help="quantile of the number of parameters that cells may have at most")
    parser.add_argument("--data", default=os.environ.get("LIGHTNING_NAS_DATA"), help="folder of nasbench201.npz")
    parser.add_argument("--race", action="store_true", help="let the best of the screen compete in short trainings")
    parser.add_argument("--count", type=int, default=8, help="finalists besides the first")
    parser.add_argument("--rounds", type=int, default=6, help="largest number of rounds")
    parser.add_argument("--steps", type=int, default=120, help="steps of a training")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10, help="random classes per training")
    parser.add_argument("--confidence", type=float, default=0.9, help="that a lead needs")
    parser.add_argument("--workers", type=int, default=2, help="processes of the race")
    options = parser.parse_args()
    if options.data is None:
        parser.error("say --data FOLDER or set LIGHTNING_NAS_DATA: the folder of nasbench201.npz")
    table = NASBench201Table(str(Path(options.data) / "nasbench201.npz"))
    test, size = f"{options.dataset}_test_200", f"{options.dataset}_params"
    space = allowed(table, NASBench201Space(OPERATIONS), size, options.cap)
    rows = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found, seconds, scored = screened(space, options.images, seed, Path(folder))
            accuracy = float(table.lookup(found, test))
            print(f"seed {seed}: {accuracy:.2f} % {space.text(found)} of {scored} cells in {seconds:.1f} s", flush=True)
            if options.race:
                found, more, race = raced(space, options.images, seed, Path(folder), options)
                accuracy, seconds = float(table.lookup(found, test)), seconds + more
                for key, cell in race.finalists.items():
                    losses = " ".join(f"{-value:.3f}" for value in race.scores[key])
                    print(f"  {float(table.lookup(cell, test)):.2f} % losses {losses}", flush=True)
                print(f"  winner: {accuracy:.2f} % {space.text(found)} in {seconds:.1f} s", flush=True)
        rows.append((accuracy, seconds))
    accuracies = [accuracy for accuracy, _ in rows]
    line = {
        "method": "screen and race" if options.race else "screen",
        "dataset": options.dataset,
        "seeds": [options.first_seed, options.first_seed + options.seeds - 1],
        "capped_accuracy" if options.cap else "first_accuracy": statistics.mean(accuracies),
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "least": min(accuracies),
        "seconds": statistics.mean(seconds for _, seconds in rows),
        "largest": float(table.lookup(space.largest(), test)),
        "best_of_table": float(max(table.column(test))),
        "mean_of_table": float(statistics.mean(table.column(test).tolist())),
    }
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in line.items()}))


if __name__ == "__main__":
    main()
