"""Speed of predictors of performance: TNAO's auto-encoder and swarm, and scores of a whole space.

    python -m benchmarks.predict_speed

Runs in the NAS-Bench-101 space, which has the longest architectures, on random architectures with synthetic results, so
that no table is needed. The last line is JSON: seconds to train on 1,000 architectures, and to draw them and 10,000
others before; milliseconds per generation of 100 particles; seconds to score 423,624 architectures with the
auto-encoder and with a random forest; and the peak memory.
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
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.predictors.regressors import RandomForest, one_hot
from lightning_nas.predictors.swarm import CompetitiveSwarm
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.strategies.tnao import SwarmSearch
from lightning_nas.tasks.autoencoder import AutoEncoderTask


class Synthetic(Evaluator):
    """Accuracies that grow with the number of edges and of 3x3 convolutions."""

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Compute the accuracies; see ``Evaluator.evaluate``."""
        return [
            Evaluation({"accuracy": sum(a.choices[:21]) / 40 + sum(c == 1 for c in a.choices[21:]) / 10})
            for a in architectures
        ]


class Clock(Callback):
    """Measures the seconds from the first training step to the end of the last one."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self.start


def train(space: NASBench101Space, options: argparse.Namespace) -> tuple[AutoEncoderTask, float, float]:
    """A trained task, the seconds of its training, and the seconds to draw its architectures."""

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3)

    def scheduler(made: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CosineAnnealingLR(made, options.steps)

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        swarm = SwarmSearch(CompetitiveSwarm(2, generations=1))
        task = AutoEncoderTask(
            space,
            evaluator=Synthetic(),
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
        return task, clock.seconds, clock.start - start


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1000, help="architectures with results to train on")
    parser.add_argument("--unlabelled", type=int, default=10_000, help="further architectures to train on")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the training")
    parser.add_argument("--networks", type=int, default=423_624, help="architectures to score")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run the benchmark; the last line is JSON."""
    options = arguments_of(given)
    torch.set_num_threads(options.threads)
    space = NASBench101Space()
    task, training, drawing = train(space, options)
    found: dict[str, Any] = {"training_seconds": training, "drawing_seconds": drawing}

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
    print(json.dumps({key: round(value, 1) for key, value in found.items()}))


if __name__ == "__main__":
    main()
