"""Evolutionary strategies on tables of known results.

    python -m benchmarks.evolve_table --method nevonas --table nasbench201-cifar10 --budget 1000 --data FOLDER

Searches see validation accuracies, averaged over the seeds of the table. The best architecture that a search has seen
is judged by its test accuracy, and ranked among all networks of the table. ``novelty`` ignores fitness in its
selection, but its result is the best architecture that it has seen, too; ``most_novel_accuracy`` is the accuracy of its
most novel architecture. Prints a table; the last line is JSON.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.predict import Problem, search
from lightning_nas.strategies.base import Strategy
from lightning_nas.strategies.dcnas import DCNAS
from lightning_nas.strategies.nevonas import NEvoNAS
from lightning_nas.strategies.pevonas import PEvoNAS
from lightning_nas.strategies.random_search import RandomSearch
from lightning_nas.strategies.regularized_evolution import RegularizedEvolution

METHODS: dict[str, tuple[Callable[[], Strategy], int]] = {
    "nevonas": (NEvoNAS, 20),
    "novelty": (lambda: NEvoNAS(novelty_only=True), 20),
    "pevonas": (PEvoNAS, 20),
    "dcnas": (DCNAS, 5),
    "random": (RandomSearch, 10),
    "regularized_evolution": (RegularizedEvolution, 10),
}
"""For each method, the function that makes the strategy, and the number of architectures per generation."""


def run(problem: Problem, method: str, budget: int, seed: int) -> dict[str, float]:
    """Run one search."""
    make, count = METHODS[method]
    strategy = make()
    found = search(problem, lambda: strategy, count, budget, seed)
    if method == "novelty" and isinstance(strategy, NEvoNAS):
        (row,) = problem.table.rows([strategy.most_novel()]).tolist()
        found["most_novel_accuracy"] = float(problem.table.column(problem.reported)[row])
    return found


def main() -> None:
    """Run the benchmark; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument("--table", required=True, choices=("nasbench201-cifar10", "nasbench201-cifar100"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=1000, help="queries")
    parser.add_argument("--data", default=os.environ.get("LIGHTNING_NAS_DATA"), help="folder of the table's npz file")
    options = parser.parse_args()
    if options.data is None:
        parser.error("set --data or LIGHTNING_NAS_DATA to the folder of nasbench201.npz")
    problem = Problem.open(options.table, Path(options.data), [])
    start = time.perf_counter()
    runs = [run(problem, options.method, options.budget, seed) for seed in range(options.seeds)]
    print(f"{'seed':>6}" + "".join(f"{key:>20}" for key in runs[0]))
    for seed, values in enumerate(runs):
        print(f"{seed:6}" + "".join(f"{value:20.6g}" for value in values.values()))
    line = {"method": options.method, "table": options.table, "seeds": options.seeds, "budget": options.budget}
    for name in ("accuracy", "most_novel_accuracy"):
        if name in runs[0]:
            values = [each[name] for each in runs]
            line |= {f"mean_{name}": statistics.mean(values)}
            line |= {f"std_{name}": statistics.stdev(values) if len(values) > 1 else 0.0}
    line |= {"median_rank": statistics.median(each["rank"] for each in runs)}
    line |= {f"mean_{name}": statistics.mean(each[name] for each in runs) for name in ("queries", "queries_to_best")}
    line |= {"success": statistics.mean(each["success"] for each in runs), "seconds": time.perf_counter() - start}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
