"""Measure the error of the finite differences of second-order DARTS against the exact derivative.

A small DARTS supernet is trained on scikit-learn's digits. In float64, before and after training and for several radii,
the implicit term of ``SecondOrder`` is compared with that of ``ExactSecondOrder``. The program prints a table and, as
its last line, JSON: the medians over batches of the relative errors of the whole hypergradient and its implicit term.

    python benchmarks/second_order_error.py --epochs 10 --seeds 3
"""

import argparse
import json
import statistics
import tempfile
import time
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.base import BilevelProblem, Hypergradient
from lightning_nas.differentiable.hypergradient.exact_second_order import ExactSecondOrder
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.bilevel import BilevelTask

RADII = (1e-2, 1e-3, 1e-4, 1e-6)


class Compared(Hypergradient):
    """First-order hypergradient for the search, which compares the others on some batches."""

    needs_sgd = True

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.errors: dict[float, list[tuple[float, float]]] = {radius: [] for radius in RADII}
        self.shares: list[float] = []

    def gradient(self, problem: BilevelProblem, train: Any, search: Any) -> tuple[torch.Tensor, ...]:
        """Return the first-order gradient."""
        first = FirstOrder().gradient(problem, train, search)
        if len(self.shares) < self.batches:
            self._compare(problem, train, search)
        return first

    def _compare(self, problem: BilevelProblem, train: Any, search: Any) -> None:
        def flat(hypergradient: Hypergradient) -> torch.Tensor:
            return torch.cat([g.flatten() for g in hypergradient.gradient(problem, train, search)])

        class Direct(ExactSecondOrder):
            """The hypergradient without its implicit term."""

            def gradient(self, problem: BilevelProblem, train: Any, search: Any) -> tuple[torch.Tensor, ...]:
                from lightning_nas.differentiable.hypergradient.second_order import unrolled

                weights = {n: w.detach().requires_grad_() for n, w in problem.weights.items()}
                found = problem.gradients(problem.train_loss(train, weights), tuple(weights.values()))
                return unrolled(problem, dict(zip(weights, found, strict=True)), search)[0]

        exact, direct = flat(ExactSecondOrder()), flat(Direct())
        implicit = direct - exact
        self.shares.append(float(implicit.norm() / exact.norm()))
        for radius in RADII:
            found = flat(SecondOrder(radius))
            self.errors[radius].append(
                (float((found - exact).norm() / exact.norm()), float((found - exact).norm() / implicit.norm()))
            )


def measure(options: argparse.Namespace, seed: int, folder: str) -> dict[str, Compared]:
    """Train one supernet, and compare hypergradients before and after."""
    seed_everything(seed)
    batches = options.batches
    compared = {"start": Compared(batches), "trained": Compared(batches)}
    task = BilevelTask(
        DARTSSpace(channels=options.channels, cells=options.cells),
        hypergradient=compared["start"],
        discretizer=SoftmaxScore(),
        weight_optimizer=lambda p: torch.optim.SGD(p, lr=0.025, momentum=0.9, weight_decay=3e-4),
        alpha_optimizer=lambda p: torch.optim.Adam(p, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
        selection_images=0,
        seed=seed,
        output_dir=folder,
        image_shape=(1, 8, 8),
    )
    data = HalvesDataModule(DigitsDataModule(seed=seed), batch_size=32)
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet |= {"precision": "64-true", "enable_model_summary": False, "enable_progress_bar": False}
    Trainer(max_epochs=1, limit_train_batches=batches, **quiet).fit(task, datamodule=data)
    task.hypergradient = FirstOrder()
    Trainer(max_epochs=options.epochs, **quiet).fit(task, datamodule=data)
    task.hypergradient = compared["trained"]
    Trainer(max_epochs=1, limit_train_batches=batches, **quiet).fit(task, datamodule=data)
    return compared


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10, help="epochs of first-order search in between")
    parser.add_argument("--batches", type=int, default=5, help="batches per comparison")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=4)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run all seeds and print the table."""
    asked = arguments_of(given)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(asked, seed, folder) for seed in range(asked.seeds)]
    result: dict[str, Any] = {"seeds": asked.seeds, "epochs": asked.epochs, "batches": asked.batches}
    print(f"{'supernet':>10} {'radius':>8} {'error of hypergradient':>24} {'error of implicit term':>24}")
    for point in ("start", "trained"):
        shares = [s for run in runs for s in run[point].shares]
        result[f"{point}_implicit_share"] = statistics.median(shares)
        for radius in RADII:
            pairs = [pair for run in runs for pair in run[point].errors[radius]]
            whole, implicit = (statistics.median(values) for values in zip(*pairs, strict=True))
            result[f"{point}_{radius:g}"] = {"hypergradient": whole, "implicit": implicit}
            print(f"{point:>10} {radius:>8g} {whole:>24.3g} {implicit:>24.3g}")
    result["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
