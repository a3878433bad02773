"""Screening by zero-cost scores, judged by a table of known results.

    OMP_NUM_THREADS=1 python -m benchmarks.screen --images FILE.npz --data FOLDER --dataset cifar10 --seeds 5

Cells of NAS-Bench-201 without ``none`` are screened on a few of 5,000 images averaged down to 16x16; nothing is
trained, and only the test accuracy of what was found is looked up. ``--first_seed 5`` takes seeds that settings were
not chosen on, ``--cap 0.5`` keeps to cells of at most the median number of parameters. The baselines are the largest
cell that is allowed, the best of the table, and the mean of the table. Prints a table; the last line is JSON. FILE.npz
has the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test`` of the data set.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas.architecture import Architecture
from lightning_nas.data import ArrayDataModule
from lightning_nas.evaluation import ZeroCost
from lightning_nas.spaces import ConstrainedSpace, NASBench201Space
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.strategies import QueryHistory, Screen
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


def screened(space: SearchSpace, images: Path, seed: int) -> tuple[Architecture, float, int]:
    """One screen: the cell that was found, its seconds, and the number of cells that were scored."""
    data = ArrayDataModule(path=str(images), train_limit=5000, image_size=16, seed=seed)
    data.prepare_data()
    data.setup("fit")
    evaluator, strategy = ZeroCost(data=data, seed=seed), Screen()
    start = time.perf_counter()
    strategy.start(space, "zero_cost", seed)
    history = QueryHistory(space, evaluator, 10_000, "zero_cost")
    while history.step(strategy, 1000):
        pass
    return strategy.best(), time.perf_counter() - start, len(strategy.evaluated)


def main() -> None:
    """Measure, print, and end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="npz file with x_train, y_train, x_test, y_test")
    parser.add_argument("--dataset", default="cifar10", help="data set of the table's columns")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--cap", type=float, help="quantile of the number of parameters that cells may have at most")
    parser.add_argument("--data", default=os.environ.get("LIGHTNING_NAS_DATA"), help="folder of nasbench201.npz")
    options = parser.parse_args()
    if options.data is None:
        parser.error("say --data FOLDER or set LIGHTNING_NAS_DATA: the folder of nasbench201.npz")
    table = NASBench201Table(str(Path(options.data) / "nasbench201.npz"))
    test, size = f"{options.dataset}_test_200", f"{options.dataset}_params"
    space = allowed(table, NASBench201Space(OPERATIONS), size, options.cap)
    rows = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        found, seconds, scored = screened(space, options.images, seed)
        accuracy = float(table.lookup(found, test))
        rows.append((accuracy, seconds))
        print(f"seed {seed}: {accuracy:.2f} % {space.text(found)} of {scored} cells in {seconds:.1f} s", flush=True)
    accuracies = [accuracy for accuracy, _ in rows]
    line = {
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
