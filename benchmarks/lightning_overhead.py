"""Time a bi-level step in Lightning's Trainer against the same step in a plain Python loop, epoch by epoch in turn.

    python -m benchmarks.lightning_overhead

Both search the same small supernet, first order, on scikit-learn's digits held in memory, from the same tensors: each
draws an order of both halves, indexes, normalises, steps, and keeps the epoch's loss and accuracy. The Trainer has the
settings of ``configs/trainer/cpu.yaml`` and Lightning's defaults, so with its CSV logger and its progress bar. Timed is
an epoch from its first batch to the end of its last step; ``ratio_with_checkpoint`` counts what comes between two
epochs too, most of it the checkpoint on disk; ``ratio_cpu`` is of the process's CPU time, which other programs disturb
less. The last line is JSON: medians over the epochs.
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
from lightning_nas.spaces.base import Mixture
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.bilevel import BilevelTask

ROOT = Path(__file__).resolve().parent.parent
CLIP = 5.0


def weight_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.025, momentum=0.9, weight_decay=3e-4)


def alpha_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 3e-4, (0.5, 0.999), weight_decay=1e-3)


class PlainLoop:
    """First-order DARTS as one would write it without a framework."""

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
        """Indices of whole batches in a new order."""
        indices = self.halves[half]
        return list(indices[torch.randperm(len(indices))].split(self.batch_size))[: len(indices) // self.batch_size]

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images and labels."""
        return (self.images[index].float() / 255 - self.mean) / self.std, self.labels[index]

    def mixtures(self) -> dict[str, Mixture]:
        """Softmaxed alphas."""
        return {name: Mixture(a.softmax(-1), a.new_ones(len(a))) for name, a in self.alphas.items()}

    def epoch(self) -> tuple[float, float]:
        """Move the alphas, then the weights, batch by batch; return the mean loss and accuracy of the weights."""
        sgd, adam = self.optimizers
        alphas = list(self.alphas.values())
        train, search = self.batches("train"), self.batches("search")
        losses, right = torch.zeros(()), torch.zeros(())
        for i, j in zip(train, search, strict=True):
            (images, labels), (held_out, truth) = self.read(i), self.read(j)
            loss = F.cross_entropy(self.supernet(held_out, self.mixtures()), truth)
            # both of two cells reduce, so that the normal cell's alphas have no gradient
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
    """Runs and times an epoch of the plain loop before every epoch of the Trainer, which it times as well.

    Attributes:
        plain: Wall and CPU seconds of the plain loop, an epoch each.
        trainer: Likewise of the Trainer.
        between: Likewise from the end of an epoch of the Trainer to the next turn.
    """

    def __init__(self, loop: PlainLoop) -> None:
        self.loop = loop
        self.plain: list[tuple[float, float]] = []
        self.trainer: list[tuple[float, float]] = []
        self.between: list[tuple[float, float]] = []
        self.last = (0.0, 0.0)

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap."""
        now = time.perf_counter(), time.process_time()
        passed = now[0] - self.last[0], now[1] - self.last[1]
        self.last = now
        return passed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The plain loop's turn."""
        self.between.append(self.lap())
        self.loop.epoch()
        self.plain.append(self.lap())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock. Checkpoints come after all other callbacks."""
        self.trainer.append(self.lap())


def trainer_settings() -> dict[str, Any]:
    """Those of the overlay for CPUs."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "trainer" / "cpu.yaml").read_text())["trainer"]
    return settings


def measure(
    channels: int, batch_size: int, epochs: int, refresh: int, folder: str, **settings: Any
) -> tuple[InTurn, int]:
    """Time ``epochs`` epochs of both, in ``folder``; returns the times and the steps of an epoch."""
    seed_everything(0, verbose=False)
    space = DARTSSpace(nodes=2, channels=channels, cells=2)
    data = HalvesDataModule(DigitsDataModule(batch_size=batch_size), batch_size)
    times = InTurn(PlainLoop(space, data, batch_size))
    task = BilevelTask(
        space,
        FirstOrder(),
        SoftmaxScore(),
        weight_optimizer,
        alpha_optimizer,
        weight_clip_norm=CLIP,
        selection_images=0,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
    )
    options = {**trainer_settings(), "max_epochs": epochs, "default_root_dir": folder, **settings}
    bar = [TQDMProgressBar(refresh_rate=refresh)] if refresh > 1 else []
    Trainer(callbacks=[times, *bar], **options).fit(task, datamodule=data)
    return times, len(times.loop.batches("train"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--channels", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=15, help="timed epochs; two more come first, untimed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lean", action="store_true", help="without progress bar, logger and checkpoints")
    parser.add_argument("--refresh", type=int, default=1, help="batches between two pictures of the progress bar")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    off = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger") if given.lean else ()
    with tempfile.TemporaryDirectory() as folder:
        options = dict.fromkeys(off, False)
        times, steps = measure(given.channels, given.batch, given.epochs + 2, given.refresh, folder, **options)
    plain, trainer, between = (torch.tensor(rows)[2:] for rows in (times.plain, times.trainer, times.between))
    ratio, ratio_cpu = (trainer / plain).median(0).values.tolist()
    # what follows an epoch is timed before the next turn
    whole = ((trainer[:-1] + between[1:]) / plain[:-1]).median(0).values[0].item()
    own, theirs = (float(rows[:, 0].median()) / steps for rows in (plain, trainer))
    print(f"a step of {given.batch} + {given.batch} images: {own * 1e3:.2f} ms plain, {theirs * 1e3:.2f} ms Trainer")
    result = {
        "ratio": round(ratio, 3),
        "ratio_cpu": round(ratio_cpu, 3),
        "ratio_with_checkpoint": round(whole, 3),
        "seconds_plain_step": round(own, 6),
        "seconds_trainer_step": round(theirs, 6),
        "steps_an_epoch": steps,
        "epochs": given.epochs,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
