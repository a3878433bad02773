"""Searches on tables of known results: how good their results are, how reliably, and with how many queries.

    python -m benchmarks.predict --method best --table nasbench201-cifar10 --seeds 10 --data FOLDER

A query is the first lookup of a network. Searches see validation accuracies where the table has them (NAS-Bench-201),
and otherwise test accuracies (NAS-Bench-101), averaged over the seeds of the table. This is easier than one noisy
result per query, on which the published figures of NAS-Bench-101 are based. The best architecture of a search is ranked
by test accuracy among all networks of the table that meet the constraints. Baselines run with the same seeds and
budget. Prints a table; the last line is JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas.architecture import Architecture
from lightning_nas.cli.lightning import run
from lightning_nas.errors import BudgetError
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.evaluation.zero_cost import SynFlow, ZeroCost
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.predictors.regressors import MLP, RandomForest
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.strategies.base import Strategy
from lightning_nas.strategies.local_search import LocalSearch
from lightning_nas.strategies.random_search import RandomSearch
from lightning_nas.strategies.regularized_evolution import RegularizedEvolution
from lightning_nas.strategies.weaknas import WeakPredictors
from lightning_nas.tables.base import Table
from lightning_nas.tables.nasbench101 import NASBench101Table
from lightning_nas.tables.nasbench201 import NASBench201Table

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_ORDER = ZeroCost([SynFlow()])


def _descent() -> LocalSearch:
    return LocalSearch(from_largest=True, restarts=False, first_improvement=True, order=_ORDER, patience=15)


METHODS: dict[str, tuple[Callable[[], Strategy], int]] = {
    "random": (RandomSearch, 10),
    "regularized_evolution": (RegularizedEvolution, 10),
    "local_search": (LocalSearch, 1),
    "local_search_largest": (lambda: LocalSearch(from_largest=True), 1),
    "local_search_random_first": (lambda: LocalSearch(first_improvement=True), 1),
    "local_search_first": (lambda: LocalSearch(from_largest=True, first_improvement=True), 1),
    "weaknas": (lambda: WeakPredictors(MLP(), 20, 10, 5000, 20), 5),
    "weaknas_boosting": (lambda: WeakPredictors(pool=5000, parents=5), 10),
    "weaknas_forest": (lambda: WeakPredictors(RandomForest(), top=20, pool=5000, parents=20), 10),
    "local_search_synflow": (lambda: LocalSearch(from_largest=True, first_improvement=True, order=_ORDER), 1),
    "best": (lambda: WeakPredictors(RandomForest(), 40, 20, 5000, 20, _descent()), 10),
}
"""For each method, the function that makes the strategy, and the number of architectures per generation."""

BEST_WITH_CONSTRAINTS = "weaknas"
"""The method ``best`` where there are constraints: the largest cell is then a bad start for a descent."""

CONFIGURED = ("tnao", "nao")
"""Methods that train: files of ``configs/predict``, run as the command line does."""

BASELINES = ("local_search", "local_search_largest")


@dataclass
class Problem:
    """A table, and what a search sees of it.

    Attributes:
        name: Name of the table.
        table: The table.
        seen: Column of the accuracies that searches see.
        reported: Column of the test accuracies.
        objective: The argument ``objective`` of ``TableLookup`` that allows ``seen``.
        constraints: Largest costs of a network, by column.
    """

    name: str
    table: Table
    seen: str
    reported: str
    objective: Any
    constraints: dict[str, float]

    @classmethod
    def open(cls, name: str, data: Path, limits: list[str]) -> "Problem":
        """Open the table that the command line names, with its constraints ``column=most``."""
        table: Table
        if name == "nasbench101":
            table = NASBench101Table(str(data / "nasbench101.npz"))
            found = cls(name, table, "test_acc_108", "test_acc_108", "test", {})
        else:
            images = name.split("-")[1]
            extra = [str(data / "nasbench201_hw.npz")] if limits else []
            table = NASBench201Table(str(data / "nasbench201.npz"), extra)
            found = cls(name, table, f"{images}_val_200", f"{images}_test_200", "validation", {})
        for limit in limits:
            column, _, value = limit.partition("=")
            column = f"{name.split('-')[-1]}_params" if column == "params" and "201" in name else column
            found.constraints[column] = float(np.median(table.column(column))) if value == "median" else float(value)
        return found

    @cached_property
    def feasible(self) -> Any:
        """Which rows meet the constraints."""
        mask = np.ones(len(self.table), bool)
        for column, limit in self.constraints.items():
            mask &= self.table.column(column) <= limit
        return mask

    @cached_property
    def optimum(self) -> int:
        """The row of the best network by the accuracies that searches see."""
        return int(np.where(self.feasible, self.table.column(self.seen), -np.inf).argmax())

    def rank(self, row: int) -> int:
        """Rank of a row by test accuracy, from 1."""
        values = self.table.column(self.reported)
        return int((values[self.feasible] > values[row]).sum()) + 1

    def evaluator(self) -> TableLookup:
        """A new evaluator, which counts its queries."""
        return TableLookup(self.table, self.seen, self.objective, tuple(self.constraints))

    def space(self, evaluator: TableLookup) -> SearchSpace:
        """The search space."""
        space = self.table.space
        return ConstrainedSpace(space, evaluator.costs, self.constraints) if self.constraints else space


def search(problem: Problem, make: Callable[[], Strategy], count: int, budget: int, seed: int) -> dict[str, float]:
    """Run one search until its budget is spent, or until it has nothing left to ask for."""
    evaluator, strategy = problem.evaluator(), make()
    strategy.start(problem.space(evaluator), seed=seed)
    while len(evaluator.queried) < budget:
        asked = strategy.ask(min(count, budget - len(evaluator.queried)))
        if not asked:
            break
        strategy.tell(list(zip(asked, evaluator.evaluate(asked), strict=True)))
    return outcome(problem, evaluator, budget, strategy.best())


def configured(problem: Problem, method: str, budget: int, seed: int) -> dict[str, float]:
    """Run a file of ``configs/predict``; samples keep their share of the budget."""
    own = CONFIGS / "predict" / f"{method}_{problem.name}.yaml"
    config = read_yaml(own if own.is_file() else CONFIGS / "predict" / f"{method}.yaml")
    given = config["model"]["init_args"]
    given["samples"] = round(budget * given["samples"] / given["budget"])
    lookup = {
        "table": {"init_args": {"path": str(problem.table.path), "extra": [str(path) for path in problem.table.extra]}},
        "column": problem.seen,
        "cost_columns": list(problem.constraints),
    }
    changed = {
        "evaluator": {"init_args": lookup},
        "budget": budget,
        "constraints": problem.constraints,
        "final_evaluator": None,
    }
    with tempfile.TemporaryDirectory() as folder:
        config = merge(config, {"model": {"init_args": {**changed, "seed": seed, "output_dir": folder}}})
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        config["trainer"] |= {**quiet, "enable_model_summary": False, "default_root_dir": folder}
        written = Path(folder) / "config.yaml"
        written.write_text(yaml.safe_dump(config))
        task = run(["fit", "--config", str(written), "--run_folder.overwrite", "true"]).model
    best, _ = task.history.best
    return outcome(problem, task.history.evaluator, budget, best)


def outcome(problem: Problem, evaluator: TableLookup, budget: int, best: Architecture) -> dict[str, float]:
    """The figures of one search."""
    rows = list(evaluator.queried)
    if len(rows) > budget:
        raise BudgetError(f"The search made {len(rows)} queries with a budget of {budget}.")
    (chosen,) = problem.table.rows([best]).tolist()
    return {
        "success": float(problem.optimum in evaluator.queried),
        "rank": problem.rank(chosen),
        "queries": len(rows),
        "queries_to_best": rows.index(problem.optimum) + 1 if problem.optimum in evaluator.queried else budget,
        "accuracy": float(problem.table.column(problem.reported)[chosen]),
    }


def measure(problem: Problem, method: str, seeds: int, budget: int) -> dict[str, float]:
    """Run all seeds of a method."""
    start = time.perf_counter()
    if method == "best" and problem.constraints:
        method = BEST_WITH_CONSTRAINTS
    if method in CONFIGURED:
        runs = [configured(problem, method, budget, seed) for seed in range(seeds)]
    else:
        runs = [search(problem, *METHODS[method], budget, seed) for seed in range(seeds)]
    accuracies = [run["accuracy"] for run in runs]
    return {
        "success": statistics.mean(run["success"] for run in runs),
        "median_rank": statistics.median(run["rank"] for run in runs),
        "mean_queries": statistics.mean(run["queries"] for run in runs),
        "mean_queries_to_best": statistics.mean(run["queries_to_best"] for run in runs),
        "mean_accuracy": statistics.mean(accuracies),
        "std_accuracy": statistics.stdev(accuracies) if seeds > 1 else 0.0,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Run the benchmark; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", required=True, choices=[*METHODS, *CONFIGURED])
    tables = ("nasbench201-cifar10", "nasbench201-cifar100", "nasbench101")
    parser.add_argument("--table", required=True, choices=tables)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=150, help="queries")
    parser.add_argument(
        "--limit", nargs="*", default=[], metavar="COLUMN=MOST", help="largest cost of a network; MOST may be 'median'"
    )
    parser.add_argument("--data", default=os.environ.get("LIGHTNING_NAS_DATA"), help="folder of the tables' npz files")
    options = parser.parse_args()
    if options.data is None:
        parser.error("set --data or LIGHTNING_NAS_DATA to the folder of nasbench201.npz and nasbench101.npz")
    problem = Problem.open(options.table, Path(options.data), options.limit)
    methods = dict.fromkeys((options.method, *BASELINES))
    results = {m: measure(problem, m, options.seeds, options.budget) for m in methods}
    print(f"{'':24}" + "".join(f"{key:>22}" for key in results[options.method]))
    for name, values in results.items():
        print(f"{name:24}" + "".join(f"{value:22.4g}" for value in values.values()))
    baseline = min((results[b] for b in BASELINES), key=lambda r: (r["mean_queries_to_best"], r["median_rank"]))
    line = {"method": options.method, "table": options.table, "seeds": options.seeds, "budget": options.budget}
    line |= {"limits": problem.constraints, "feasible": int(problem.feasible.sum())}
    print(json.dumps({**line, **results[options.method], **{f"baseline_{k}": v for k, v in baseline.items()}}))


if __name__ == "__main__":
    main()
