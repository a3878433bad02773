"""Screening by zero-cost scores, judged by a table of known results.

    OMP_NUM_THREADS=1 python -m benchmarks.screen --images FILE.npz --data FOLDER --dataset cifar10 --seeds 5

Cells of NAS-Bench-201 without ``none`` are screened on a few of 5,000 images averaged down to 16x16; nothing is
trained, and only the test accuracy of what was found is looked up. ``--first_seed 5`` takes seeds that settings were
not chosen on, ``--cap 0.5`` keeps to cells of at most the median number of parameters. With ``--race`` the eight best
cells of every screen then compete in short trainings, as by ``configs/evolve/race.yaml``. ``--searched FILE`` takes
what ``benchmarks.search`` printed for the same seeds: the cell that a differentiable search found joins the first round
of the screen, and the race. The baselines are the largest cell that is allowed, the best of the table, and the mean of
the table. ``--space nasbench101`` does the same there.

``--tau 300`` finds nothing, but compares every zero-cost score, and the combination of ``ZeroCost``, with the
accuracies of 300 random cells, and of half as many random ones among the best tenth, by Kendall's tau with a bootstrap
interval over cells. ``--space darts`` has no table; its cells and accuracies are those of ``--truth``, a file of
``benchmarks.darts_truth``, and a screen there prints what it found, for ``benchmarks.darts_truth --cell``; with
``--best_of 15``, what was found is compared with the best of 15 random cells of the file by one short training each.
``--trainings`` and ``--alphas FILE`` add the loss of short trainings, and the alphas of a search, to ``--tau``.

Prints a table; the last line is JSON. FILE.npz has the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test`` of
the data set.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scipy.stats import rankdata

from lightning_nas.architecture import Architecture
from lightning_nas.data import ArrayDataModule, HalvesDataModule, RandomCrop, RandomFlip
from lightning_nas.evaluation import AlphaPrior, Parallel, Processes, ShortTraining, ZeroCost, zero_cost
from lightning_nas.files.artifacts import read_json, write_json
from lightning_nas.metrics.ranking import bootstrap_interval, kendall_tau
from lightning_nas.spaces import ConstrainedSpace, DARTSSpace, NASBench101Space, NASBench201Space
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.strategies import QueryHistory, Race, Screen
from lightning_nas.tables import NASBench101Table, NASBench201Table, Table

OPERATIONS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
SCORES: tuple[type[zero_cost.ZeroCostScore], ...] = (
    *(zero_cost.Parameters, zero_cost.MultiplyAccumulates, zero_cost.ShortestPath, zero_cost.LongestPath),
    *(zero_cost.SynFlow, zero_cost.Expressivity, zero_cost.Progressivity, zero_cost.Trainability),
    *(zero_cost.NASWOT, zero_cost.SWAP, zero_cost.ZiCo, zero_cost.MeCo, zero_cost.Zen),
    *(zero_cost.JacobianCovariance, zero_cost.EPENAS),
    *(zero_cost.SNIP, zero_cost.GraSP, zero_cost.Fisher, zero_cost.GradientNorm),
)
SEARCHED = "searched.json"
"""File of the cell of a differentiable search."""
TOP = 0.1
"""Share of the best cells among which ``--tau`` ranks once more."""


class Known:
    """A space, and the accuracies of its cells.

    Args:
        options: Options of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.table: Table | None = None
        self.truth: dict[str, float] = {}
        self.random: list[str] = []
        self.space: SearchSpace
        if options.space == "nasbench201":
            self.table = NASBench201Table(str(Path(options.data) / "nasbench201.npz"))
            self.space = NASBench201Space(OPERATIONS)
            self.test, self.size = f"{options.dataset}_test_200", f"{options.dataset}_params"
        elif options.space == "nasbench101":
            self.table = NASBench101Table(str(Path(options.data) / "nasbench101.npz"))
            self.space = NASBench101Space()
            self.test, self.size = "test_acc_108", "params"
        else:
            self.space = DARTSSpace()
            content = read_json(options.truth, repair="Write it with python -m benchmarks.darts_truth.")
            known: dict[str, list[float]] = {}
            for row in content["rows"]:
                known.setdefault(row["genotype"], []).append(row["accuracy"])
            self.truth = {text: statistics.mean(values) for text, values in known.items()}
            self.random = [row["genotype"] for row in content["rows"] if row["name"].startswith("random_")]
        if options.cap is not None:
            self.space = self._capped(options.cap)

    def _capped(self, cap: float) -> SearchSpace:
        """The cells of at most a quantile of the number of parameters of all cells."""
        table = self.table
        assert table is not None
        if self.options.space == "nasbench201":
            counts = table.lookup_many(self.cells(), self.size)
        else:
            counts = table.column(self.size)
        bound = float(statistics.quantiles(counts, n=1000)[round(1000 * cap) - 1])
        return ConstrainedSpace(self.space, lambda a: {"parameters": table.lookup(a, self.size)}, {"parameters": bound})

    def cells(self) -> list[Architecture]:
        """All cells of NAS-Bench-201 without ``none``."""
        every = torch.cartesian_prod(*[torch.arange(len(OPERATIONS))] * 6).tolist()
        return [NASBench201Space(OPERATIONS).architecture(choices) for choices in every]

    def accuracy(self, architecture: Architecture) -> float:
        """The known accuracy in percent; nan where there is none."""
        if self.table is None:
            return self.truth.get(self.space.text(architecture), float("nan"))
        return self.table.lookup(architecture, self.test)

    def samples(self, count: int, seed: int) -> dict[str, list[Architecture]]:
        """Cells to compare scores with: random ones of the space, and random ones among the best.

        Args:
            count: Number of random cells; among the best there are half as many.
            seed: Seed of the draws.
        """
        generator = torch.Generator().manual_seed(seed)
        if self.table is None:
            return {"all": [DARTSSpace.parse(text) for text in self.truth]}
        if self.options.space == "nasbench201":
            cells = self.cells()
            accuracies = torch.from_numpy(self.table.lookup_many(cells, self.test))
            best = accuracies.argsort(descending=True)[: round(TOP * len(cells))]
            chosen = [cells[i] for i in drawn(best, count // 2, generator)]
        else:
            accuracies = torch.from_numpy(self.table.column(self.test).copy())
            best = accuracies.argsort(descending=True)[: round(TOP * len(accuracies))]
            chosen = [self.table.architecture(i) for i in drawn(best, count // 2, generator)]
        return {"all": [self.space.sample(generator) for _ in range(count)], "best tenth": chosen}

    def baselines(self) -> dict[str, float]:
        """Accuracies without any search."""
        if self.table is None:
            return {"largest": self.accuracy(self.space.largest())}
        column = self.table.column(self.test)
        return {
            "largest": self.accuracy(self.space.largest()),
            "best_of_table": float(max(column)),
            "mean_of_table": float(statistics.mean(column.tolist())),
        }


def drawn(rows: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Some of the rows, each at most once."""
    chosen: list[int] = rows[torch.randperm(len(rows), generator=generator)[:count]].tolist()
    return chosen


def images_of(path: Path, seed: int) -> ArrayDataModule:
    """The images of a search."""
    return ArrayDataModule(path=str(path), train_limit=5000, image_size=16, seed=seed)


def scorer(options: argparse.Namespace, seed: int, scores: list[zero_cost.ZeroCostScore] | None = None) -> ZeroCost:
    """The evaluator of a seed, with the scores of ``--scores`` unless others are given."""
    data = images_of(options.images, seed)
    data.prepare_data()
    data.setup("fit")
    if scores is None and options.scores:
        scores = [each() for each in SCORES if each.name in options.scores]
    return ZeroCost(scores, data=data, seed=seed, cells=options.cells)


def started(options: argparse.Namespace, seed: int, folder: Path) -> Path:
    """Write the cell that a differentiable search found with a seed; returns its path."""
    rows = [json.loads(line) for line in options.searched.read_text().splitlines() if line.startswith('{"seed"')]
    cell = next(row["search_alone_cell"] for row in rows if row["seed"] == seed)
    published, parsed = NASBench201Space().operations, NASBench201Space.parse(cell)
    choices = [OPERATIONS.index(published[choice]) for choice in parsed.choices]
    return NASBench201Space(OPERATIONS).architecture(choices).save(folder / SEARCHED)


def screened(
    space: SearchSpace, options: argparse.Namespace, seed: int, folder: Path
) -> tuple[Architecture, float, int]:
    """One screen: the cell that was found, its seconds, and the number of cells that were scored."""
    evaluator = scorer(options, seed)
    starts = [str(started(options, seed, folder))] if options.searched else []
    strategy = Screen(options.initial, parents=options.parents, rounds=options.screen_rounds, starts=starts)
    start = time.perf_counter()
    strategy.start(space, "zero_cost", seed)
    history = QueryHistory(space, evaluator, 10_000, "zero_cost")
    while history.step(strategy, 1000):
        pass
    seconds = time.perf_counter() - start
    history.write(folder)
    return history.best[0], seconds, len(strategy.evaluated)


def correlations(known: Known, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Kendall's tau of all scores, and of the sum of the ranks of the default ones, with 95 % intervals.

    Returns:
        For every sample and score the tau and both ends of its interval.
    """
    everything: list[zero_cost.ZeroCostScore] = [each() for each in SCORES]
    names = [each.name for each in everything]
    chosen = options.scores or [each.name for each in ZeroCost().scores]
    found: dict[str, dict[str, list[float]]] = {}
    content: dict[str, list[dict[str, object]]] = {}
    for sample, cells in known.samples(options.tau, options.first_seed).items():
        evaluator = scorer(options, options.first_seed, everything)
        accuracies = [known.accuracy(cell) for cell in cells]
        rows = []
        for cell in cells:  # one by one, because the ranks of this evaluator are not used
            features = evaluator.evaluate([cell])[0].features
            assert features is not None
            rows.append(features.tolist())
        ranks = dict(zip(names, rankdata(rows, axis=0).T.tolist(), strict=True))
        ranks["zero_cost"] = [sum(each) for each in zip(*(ranks[name] for name in chosen), strict=True)]
        if options.trainings:
            training = trainings(options, options.first_seed)
            ranks["short_training"] = [-each.objectives["loss"] for each in training.evaluate(cells)]
            training.close()
        if options.alphas:
            ranks["alphas"] = [each.objectives["log_prior"] for each in AlphaPrior(options.alphas).evaluate(cells)]
        content[sample] = [
            {"cell": known.space.text(cell), "accuracy": accuracy, **dict(zip(names, row, strict=True))}
            for cell, accuracy, row in zip(cells, accuracies, rows, strict=True)
        ]
        found[sample] = {}
        for name, values in ranks.items():
            interval = bootstrap_interval(kendall_tau, values, accuracies, samples=options.resamples)
            tau = kendall_tau(values, accuracies)
            found[sample][name] = [round(each, 3) for each in (tau, interval.low, interval.high)]
            print(f"{sample}, {len(cells)} cells: {name} {tau:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
    if options.write is not None:
        write_json(options.write, {"samples": content})
    return found


def trainings(options: argparse.Namespace, seed: int) -> Parallel:
    """Short trainings, as those of the race."""
    halves = HalvesDataModule(images_of(options.images, seed), batch_size=options.batch_size)
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
    return Parallel(training, Processes(options.workers))


def best_of_random(known: Known, options: argparse.Namespace, seed: int) -> float:
    """Accuracy of the best of some random cells of the truth by the loss of one short training each."""
    if options.best_of > len(known.random):
        raise SystemExit(f"--best_of is {options.best_of}; {options.truth} has {len(known.random)} random cells.")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(known.random), generator=generator)[: options.best_of].tolist()
    cells = [DARTSSpace.parse(known.random[i]) for i in chosen]
    start = time.perf_counter()
    evaluator = trainings(options, seed)
    losses = [each.objectives["loss"] for each in evaluator.evaluate(cells)]
    evaluator.close()
    accuracy = known.accuracy(cells[losses.index(min(losses))])
    seconds = time.perf_counter() - start
    print(f"seed {seed}: {accuracy:.2f} % is the best of {len(cells)} random cells, in {seconds:.1f} s", flush=True)
    return accuracy


def raced(space: SearchSpace, options: argparse.Namespace, seed: int, folder: Path) -> tuple[Architecture, float, Race]:
    """A race of the best of a screen: the winner, the seconds, and the strategy."""
    evaluator = trainings(options, seed)
    strategy = Race(
        [str(folder / "architecture.json"), *([str(folder / SEARCHED)] if options.searched else [])],
        screened=str(folder / "history.json"),
        count=options.count,
        rounds=options.rounds,
        confidence=options.confidence,
    )
    start = time.perf_counter()
    strategy.start(space, "loss", seed)
    history = QueryHistory(space, evaluator, 10_000, "loss")
    while history.step(strategy, 100):
        pass
    evaluator.close()
    return history.best[0], time.perf_counter() - start, strategy


def searched(known: Known, options: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Accuracy of the cell that one seed finds, and the seconds of its search."""
    space = known.space
    with tempfile.TemporaryDirectory() as folder:
        found, seconds, scored = screened(space, options, seed, Path(folder))
        accuracy = known.accuracy(found)
        print(f"seed {seed}: {accuracy:.2f} % {space.text(found)} of {scored} cells in {seconds:.1f} s", flush=True)
        if options.race:
            found, more, race = raced(space, options, seed, Path(folder))
            accuracy, seconds = known.accuracy(found), seconds + more
            for key, cell in race.finalists.items():
                losses = " ".join(f"{-value:.3f}" for value in race.scores[key])
                print(f"  {known.accuracy(cell):.2f} % losses {losses}", flush=True)
            print(f"  winner: {accuracy:.2f} % {space.text(found)} in {seconds:.1f} s", flush=True)
    return accuracy, seconds


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="npz file with x_train, y_train, x_test, y_test")
    parser.add_argument("--space", default="nasbench201", choices=["nasbench201", "nasbench101", "darts"])
    parser.add_argument("--dataset", default="cifar10", help="data set of the table's columns")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--cap", type=float, help="quantile of the number of parameters that cells may have at most")
    parser.add_argument("--data", default=os.environ.get("LIGHTNING_NAS_DATA"), help="folder of the tables")
    parser.add_argument("--truth", type=Path, help="file of benchmarks.darts_truth, for the space darts")
    parser.add_argument("--cells", type=int, help="cells of the scored networks (default: as ZeroCost)")
    parser.add_argument("--scores", nargs="+", choices=[each.name for each in SCORES], help="scores to combine")
    parser.add_argument("--initial", type=int, default=250, help="random cells of the screen")
    parser.add_argument("--parents", type=int, default=8, help="cells whose neighbours are looked at")
    parser.add_argument("--screen_rounds", type=int, default=2, help="rounds of neighbours")
    parser.add_argument("--tau", type=int, help="number of random cells to compare all scores on, instead of a search")
    parser.add_argument("--trainings", action="store_true", help="compare short trainings of the cells, too")
    parser.add_argument("--alphas", nargs="+", help="alphas.safetensors of searches, to compare their logarithms, too")
    parser.add_argument("--best_of", type=int, help="compare with the best of as many random cells, in the space darts")
    parser.add_argument("--resamples", type=int, default=500, help="resamples of cells that intervals are taken over")
    parser.add_argument("--write", type=Path, help="JSON file for the scores of these cells")
    parser.add_argument("--race", action="store_true", help="let the best of the screen compete in short trainings")
    parser.add_argument("--searched", type=Path, help="what benchmarks.search printed for these seeds")
    parser.add_argument("--count", type=int, default=8, help="finalists besides the first")
    parser.add_argument("--rounds", type=int, default=6, help="largest number of rounds")
    parser.add_argument("--steps", type=int, default=120, help="steps of a training")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10, help="random classes per training")
    parser.add_argument("--confidence", type=float, default=0.9, help="that a lead needs")
    parser.add_argument("--workers", type=int, default=2, help="processes of the race")
    options = parser.parse_args(given)
    if options.searched and options.space != "nasbench201":
        parser.error("--searched is for the space nasbench201")
    if options.space == "darts" and (options.truth is None or options.cap is not None):
        parser.error("the space darts needs --truth FILE, and takes no --cap")
    if options.best_of and (options.space != "darts" or options.tau is not None):
        parser.error("--best_of compares searches in the space darts; it takes no --tau")
    if (options.trainings or options.alphas) and options.tau is None:
        parser.error("--trainings and --alphas compare scores; they need --tau")
    if options.space != "darts" and options.data is None:
        parser.error("say --data FOLDER or set LIGHTNING_NAS_DATA: the folder of the tables")
    return options


def main(given: list[str] | None = None) -> None:
    """Measure, print, and end with a line of JSON."""
    options = arguments_of(given)
    known = Known(options)
    line: dict[str, object] = {"space": options.space, "dataset": options.dataset}
    if options.tau is not None:
        print(json.dumps({**line, "method": "tau", "seed": options.first_seed, "tau": correlations(known, options)}))
        return
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows = [searched(known, options, seed) for seed in seeds]
    accuracies = [accuracy for accuracy, _ in rows]
    unknown = sum(math.isnan(accuracy) for accuracy in accuracies)
    line |= {
        "method": " and ".join(["search"] * bool(options.searched) + ["screen"] + ["race"] * options.race),
        "seeds": [seeds[0], seeds[-1]],
        "seconds": statistics.mean(seconds for _, seconds in rows),
        **known.baselines(),
    }
    if unknown:  # cells of the DARTS space that benchmarks.darts_truth has yet to train
        line["unknown"] = unknown
    else:
        line |= {
            "capped_accuracy" if options.cap else "first_accuracy": statistics.mean(accuracies),
            "std": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
            "least": min(accuracies),
        }
    if options.best_of and not unknown:
        others = [best_of_random(known, options, seed) for seed in seeds]
        gains = [first - second for first, second in zip(accuracies, others, strict=True)]
        line |= {"random_accuracy": statistics.mean(others), "gains": [round(gain, 2) for gain in gains]}
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in line.items()}))


if __name__ == "__main__":
    main()
