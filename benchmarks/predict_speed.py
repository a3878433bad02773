"""Speed of predictors of performance: TNAO's auto-encoder and swarm, and scores of a whole space.

    python -m benchmarks.predict_speed [--table nasbench101.npz]

Runs in the NAS-Bench-101 space, which has the longest architectures, on random architectures with synthetic results, so
that no table is needed. The last line is JSON: seconds and CPU seconds to train on 1,000 architectures, and seconds to
draw them and 10,000 others before; milliseconds per generation of 100 particles; seconds to score 423,624 architectures
with the auto-encoder and with a random forest; and the peak memory. With a table, results are its mean test accuracies,
and there are three more figures over 2,000 other architectures: Kendall's tau between scores and results, the same
among the best tenth of them, and the share that is decoded to itself.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas.architecture import Architecture
from lightning_nas.data.dummy import DummyDataModule
from lightning_nas.data.splits import derived_seed
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.table import TableLookup
from lightning_nas.metrics.ranking import kendall_tau
from lightning_nas.predictors.regressors import RandomForest, one_hot
from lightning_nas.predictors.swarm import CompetitiveSwarm
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.strategies.tnao import SwarmSearch
from lightning_nas.tables.base import Table
from lightning_nas.tables.nasbench101 import NASBench101Table
from lightning_nas.tasks.autoencoder import AutoEncoderTask

COLUMN = "test_acc_108"
"""Results of the table: the published one of mean accuracies has no others."""


class Synthetic(Evaluator):
    """Accuracies that grow with the number of edges and of 3x3 convolutions."""

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Compute the accuracies; see ``Evaluator.evaluate``."""
        return [
            Evaluation({"accuracy": sum(a.choices[:21]) / 40 + sum(c == 1 for c in a.choices[21:]) / 10})
            for a in architectures
        ]


def quality(task: AutoEncoderTask, table: Table, count: int) -> dict[str, float]:
    """How well an auto-encoder ranks and reconstructs random architectures that it was not trained to rank."""
    space, generator = task.history.space, torch.Generator().manual_seed(derived_seed(task.seed, "held out"))
    known, held = {space.key(a) for a, _ in task.history.results}, []
    while len(held) < count:
        if space.key(drawn := space.sample(generator)) not in known:
            held.append(drawn)
    choices = torch.tensor([a.choices for a in held])
    autoencoder = task.autoencoder.eval()
    with torch.inference_mode():
        codes = autoencoder.encode(choices)
        scores, decoded = autoencoder.scores(codes), autoencoder.decode(codes).argmax(2)
    truth = torch.tensor(table.lookup_many(held, COLUMN))
    best = truth.argsort(descending=True)[: count // 10]
    return {
        "tau": kendall_tau(scores.tolist(), truth.tolist()),
        "tau_best_tenth": kendall_tau(scores[best].tolist(), truth[best].tolist()),
        "reconstructed": float((decoded == choices).all(1).float().mean()),
    }


class Clock(Callback):
    """Measures the seconds from the first training step to the end of the last one, and the CPU time of all threads."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clocks."""
        self.seconds, self.cpu_seconds = time.perf_counter() - self.start, time.process_time() - self.cpu_start


def train(
    space: NASBench101Space, options: argparse.Namespace, table: Table | None
) -> tuple[AutoEncoderTask, dict[str, Any]]:
    """A trained task, and the seconds of its training and of drawing its architectures."""

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3, fused=True)

    def scheduler(made: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CosineAnnealingLR(made, options.steps)

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        swarm = SwarmSearch(CompetitiveSwarm(2, generations=1))
        task = AutoEncoderTask(
            space,
            evaluator=TableLookup(table, column=COLUMN, objective="test") if table is not None else Synthetic(),
            seed=options.seed,
            strategy=swarm,
            optimizer=optimizer,
            scheduler=scheduler,
            samples=options.samples,
            budget=options.samples + 1,
            unlabelled=options.unlabelled,
            output_dir=folder,
        )
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[clock], enable_model_summary=False, **quiet)
        start = time.perf_counter()
        trainer.fit(task, datamodule=DummyDataModule(options.steps))
        found = {"training_seconds": clock.seconds, "training_cpu_seconds": clock.cpu_seconds}
        return task, {**found, "drawing_seconds": clock.start - start}


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1000, help="architectures with results to train on")
    parser.add_argument("--unlabelled", type=int, default=10_000, help="further architectures to train on")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the training")
    parser.add_argument("--table", help="nasbench101.npz, for real results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held_out", type=int, default=2000, help="architectures to rank, with a table")
    parser.add_argument("--networks", type=int, default=423_624, help="architectures to score")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run the benchmark; the last line is JSON."""
    options = arguments_of(given)
    torch.set_num_threads(options.threads)
    space = NASBench101Space()
    table = NASBench101Table(options.table) if options.table else None
    task, found = train(space, options, table)
    if table is not None:
        found |= quality(task, table, options.held_out)

    generations = 50
    search = SwarmSearch(CompetitiveSwarm(100, generations=generations))
    search.start(space)
    search.tell(task.history.results)
    search.autoencoder = task.autoencoder.eval()
    start = time.perf_counter()
    search.ask(100)
    found["generation_milliseconds"] = 1000 * (time.perf_counter() - start) / generations

    # random choices will do, as scores do not depend on whether they are architectures
    num_values = torch.tensor(space.num_values)
    choices = (torch.rand(options.networks, len(num_values)) * num_values).long()
    start = time.perf_counter()
    with torch.inference_mode():
        for part in choices.split(512):
            task.autoencoder.scores(task.autoencoder.encode(part))
    found["scoring_seconds"] = time.perf_counter() - start

    known = [(a.choices, e.objectives["accuracy"]) for a, e in task.history.results]
    features = one_hot([c for c, _ in known], space.num_values)
    others = one_hot(choices.tolist(), space.num_values)
    start = time.perf_counter()
    RandomForest().predict(features, torch.tensor([w for _, w in known]).numpy(), others, seed=0)
    found["forest_seconds"] = time.perf_counter() - start
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({key: round(value, 3 if value < 1 else 1) for key, value in found.items()}))


if __name__ == "__main__":
    main()
