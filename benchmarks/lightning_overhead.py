"""Compare the time of a bi-level step in Lightning's Trainer with that of the same step in a plain Python loop.

    python -m benchmarks.lightning_overhead

Both train the same small supernet with first-order hypergradients on scikit-learn's digits, from the same tensors in
memory: each shuffles both halves, selects and normalises batches, steps, and averages loss and accuracy over the epoch.
Epochs of both alternate. The Trainer has the settings of ``configs/trainer/cpu.yaml`` and otherwise Lightning's
defaults, including its CSV logger and progress bar. An epoch is timed from its first batch to the end of its last step.
``ratio_with_checkpoint`` also includes the time between two epochs, most of which is for the checkpoint. ``ratio_cpu``
compares CPU times of the process, which depend less on other programs. The last line is JSON with medians over the
epochs.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import DigitsDataModule
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.supernet import Mixture
from lightning_nas.tasks.bilevel import BilevelTask

ROOT = Path(__file__).resolve().parent.parent
CLIP = 5.0


def weight_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.025, momentum=0.9, weight_decay=3e-4)


def alpha_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 3e-4, (0.5, 0.999), weight_decay=1e-3)


class PlainLoop:
    """First-order DARTS, as one would write it without a framework."""

    def __init__(self, space: DARTSSpace, data: HalvesDataModule, batch_size: int) -> None:
        self.images = data.data.train_set.images  # type: ignore[attr-defined]  # digits are one tensor
        self.labels = data.data.train_set.labels
        self.halves = {name: torch.tensor(data.half(name).indices) for name in ("train", "search")}
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
        self.batch_size = batch_size
        self.supernet = space.supernet(num_classes=data.num_classes, image_shape=data.image_shape)
        shape = (space.edges, len(space.operations))
        self.alphas = {name: (1e-3 * torch.randn(shape)).requires_grad_() for name in space.cell_types}
        self.weights = list(self.supernet.parameters())
        self.optimizers = weight_optimizer(self.weights), alpha_optimizer(list(self.alphas.values()))

    def batches(self, half: str) -> list[Tensor]:
        """Draw a new order, and return the indices of complete batches."""
        indices = self.halves[half]
        return list(indices[torch.randperm(len(indices))].split(self.batch_size))[: len(indices) // self.batch_size]

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised images and labels."""
        return (self.images[index].float() / 255 - self.mean) / self.std, self.labels[index]

    def mixtures(self) -> dict[str, Mixture]:
        """Apply softmax to the alphas."""
        return {name: Mixture(a.softmax(-1), a.new_ones(len(a))) for name, a in self.alphas.items()}

    def epoch(self) -> tuple[float, float]:
        """Update alphas and weights in every batch, and return mean loss and accuracy on the train half."""
        sgd, adam = self.optimizers
        alphas = list(self.alphas.values())
        train, search = self.batches("train"), self.batches("search")
        losses, right = torch.zeros(()), torch.zeros(())
        for i, j in zip(train, search, strict=True):
            (images, labels), (search_images, search_labels) = self.read(i), self.read(j)
            loss = F.cross_entropy(self.supernet(search_images, self.mixtures()), search_labels)
            # both cells are reduction cells, so the alphas of the normal cell have no gradient
            found = torch.autograd.grad(loss, alphas, allow_unused=True)
            for alpha, gradient in zip(alphas, found, strict=True):
                alpha.grad = torch.zeros_like(alpha) if gradient is None else gradient
            adam.step()
            with torch.no_grad():
                fixed = self.mixtures()
            logits = self.supernet(images, fixed)
            loss = F.cross_entropy(logits, labels)
            sgd.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.weights, CLIP)
            sgd.step()
            losses += loss.detach()
            right += (logits.argmax(1) == labels).float().mean()
        return float(losses) / len(train), float(right) / len(train)


class InTurn(Callback):
    """Runs an epoch of the plain loop before every epoch of the Trainer, and times both.

    Attributes:
        plain: Wall-clock and CPU seconds of every epoch of the plain loop.
        trainer: Wall-clock and CPU seconds of every epoch of the Trainer.
        between: Wall-clock and CPU seconds from the end of every epoch of the Trainer to the next epoch of the loop.
    """

    def __init__(self, loop: PlainLoop) -> None:
        self.loop = loop
        self.plain: list[tuple[float, float]] = []
        self.trainer: list[tuple[float, float]] = []
        self.between: list[tuple[float, float]] = []
        self.last = (0.0, 0.0)

    def lap(self) -> tuple[float, float]:
        """Return wall-clock and CPU seconds since the previous call."""
        now = time.perf_counter(), time.process_time()
        passed = now[0] - self.last[0], now[1] - self.last[1]
        self.last = now
        return passed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run an epoch of the plain loop."""
        self.between.append(self.lap())
        self.loop.epoch()
        self.plain.append(self.lap())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the time before the checkpoint, which follows all other callbacks."""
        self.trainer.append(self.lap())


def trainer_settings() -> dict[str, Any]:
    """Read the settings for CPUs."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "trainer" / "cpu.yaml").read_text())["trainer"]
    return settings


def measure(
    channels: int, batch_size: int, epochs: int, refresh: int, folder: str, **settings: Any
) -> tuple[InTurn, int]:
    """Time ``epochs`` epochs of both, in ``folder``; returns the times and the steps of an epoch."""
    seed_everything(0, verbose=False)
    space = DARTSSpace(nodes=2, channels=channels, cells=2)
    data = HalvesDataModule(DigitsDataModule(batch_size=batch_size), batch_size=batch_size)
    times = InTurn(PlainLoop(space, data, batch_size))
    task = BilevelTask(
        space,
        hypergradient=FirstOrder(),
        discretizer=SoftmaxScore(),
        weight_optimizer=weight_optimizer,
        alpha_optimizer=alpha_optimizer,
        weight_clip_norm=CLIP,
        selection_images=0,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
    )
    options = {**trainer_settings(), "max_epochs": epochs, "default_root_dir": folder, **settings}
    bar = [TQDMProgressBar(refresh_rate=refresh)] if refresh > 1 else []
    Trainer(callbacks=[times, *bar], **options).fit(task, datamodule=data)
    return times, len(times.loop.batches("train"))


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--channels", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--epochs", type=int, default=15, help="timed epochs, after two untimed ones (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lean", action="store_true", help="switch progress bar, logger and checkpoints off")
    parser.add_argument("--refresh", type=int, default=1, help="batches between two updates of the progress bar")
    options = parser.parse_args(given)
    if options.epochs < 2:
        parser.error("--epochs must be at least 2: the time between two epochs is measured, too")
    return options


def main(given: list[str] | None = None) -> None:
    """Measure and print the result."""
    asked = arguments_of(given)
    torch.set_num_threads(asked.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    off = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger") if asked.lean else ()
    with tempfile.TemporaryDirectory() as folder:
        options = dict.fromkeys(off, False)
        times, steps = measure(asked.channels, asked.batch, asked.epochs + 2, asked.refresh, folder, **options)
    plain, trainer, between = (torch.tensor(rows)[2:] for rows in (times.plain, times.trainer, times.between))
    ratio, ratio_cpu = (trainer / plain).median(0).values.tolist()
    # the time after an epoch is recorded before the next one
    whole = ((trainer[:-1] + between[1:]) / plain[:-1]).median(0).values[0].item()
    own, theirs = (float(rows[:, 0].median()) / steps for rows in (plain, trainer))
    print(f"a step of {asked.batch} + {asked.batch} images: {own * 1e3:.2f} ms plain, {theirs * 1e3:.2f} ms Trainer")
    result = {
        "ratio": round(ratio, 3),
        "ratio_cpu": round(ratio_cpu, 3),
        "ratio_with_checkpoint": round(whole, 3),
        "seconds_plain_step": round(own, 6),
        "seconds_trainer_step": round(theirs, 6),
        "steps_an_epoch": steps,
        "epochs": asked.epochs,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
