"""Small data and trainers for tests."""

import os
import re
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.architecture import Architecture
from lightning_nas.distill.base import Scheme
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.experts import Experts
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.tables.nasbench101 import NASBench101Table
from lightning_nas.tables.space_table import SpaceTable

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def quiet_trainer(**options: Any) -> Trainer:
    """A trainer on the CPU without bars, logs and checkpoints."""
    return Trainer(**{**QUIET, **options})


class FixedHalves(LightningDataModule):
    """Random halves in a fixed order, without augmentation."""

    num_classes = 3

    def __init__(
        self, batches: int = 3, batch_size: int = 4, size: int = 8, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        n = batches * batch_size
        self.batch_size = batch_size
        self.sets = {
            name: TensorDataset(
                torch.randn(n, 3, size, size, generator=generator, dtype=dtype),
                torch.randint(self.num_classes, (n,), generator=generator),
            )
            for name in ("train", "search")
        }

    def half(self, name: str) -> TensorDataset:
        """One half."""
        return self.sets[name]

    def fixed_batch(self, half: str, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """The first images of a half."""
        images, labels = self.sets[half][:size]
        return images, labels

    def train_dataloader(self) -> CombinedLoader:
        """Both halves, batch by batch."""
        loaders = {name: DataLoader(half, self.batch_size) for name, half in self.sets.items()}
        return CombinedLoader(loaders, "max_size_cycle")

    def batches(self) -> list[dict[str, tuple[Tensor, Tensor]]]:
        """What the task sees, in order."""
        loaders = [DataLoader(self.sets[name], self.batch_size) for name in ("train", "search")]
        return [{"train": (t[0], t[1]), "search": (s[0], s[1])} for t, s in zip(*loaders, strict=True)]


def started(scheme: Scheme, images: Tensor, labels: Tensor) -> Scheme:
    """A scheme of some images."""
    scheme.start(images, labels, int(labels.max()) + 1, torch.Generator().manual_seed(0))
    return scheme


def stored(scheme: Scheme, **tensors: Tensor) -> Scheme:
    """A scheme of given tensors."""
    scheme.restore(tensors)
    return scheme


def wandering_experts(image_shape: tuple[int, int, int], path: Path) -> Path:
    """Experts of three classes that go at random."""
    first = parameters_to_vector(ConvNet(image_shape, 3, width=4, depth=2).parameters()).detach()
    weights = first + 0.02 * torch.randn(2, 11, len(first)).cumsum(1)
    return Experts(weights, 4, 2, image_shape, 3, {}).save(path)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Of every image of a to every image of b, exactly."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(a.detach().flatten(1), b.detach().flatten(1), compute_mode=exact)


class EveryNASBench101Cell(NASBench101Table):
    """Made-up results of all cells, which a file of some of them could not answer a search with."""

    def __init__(self) -> None:
        super().__init__("made up")

    def rows(self, architectures: Sequence[Architecture]) -> Any:
        """Numbers that only equal cells share."""
        return np.array([int(self.space.key(each)[:15], 16) for each in architectures])

    def lookup_many(self, architectures: Sequence[Architecture], column: str, trial: int | None = None) -> Any:
        """More edges are better."""
        return np.array([float(80 + len(self.space.graphs(each)[0].edges)) for each in architectures])


class EveryArchitecture(SpaceTable):
    """Made-up results of all architectures of a space of independent choices.

    Args:
        space: The space.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__("made up", space)

    def rows(self, architectures: Sequence[Architecture]) -> Any:
        """Numbers of all combinations in order."""
        choices = np.array([each.choices for each in architectures])
        return np.ravel_multi_index(tuple(choices.T), self.space.num_values)

    def lookup_many(self, architectures: Sequence[Architecture], column: str, trial: int | None = None) -> Any:
        """Higher choices are better."""
        return np.array([80.0 + sum(each.choices) / 10 for each in architectures])


class StopAfterFirst(Callback):
    """Ends a training after its first epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask the trainer to stop."""
        trainer.should_stop = True


class Screen:
    """What a program has written to a terminal."""

    def __init__(self) -> None:
        self.written = b""

    def lines(self) -> list[str]:
        """The lines as they are left on the screen, of text that a carriage return lets be overwritten."""
        found = []
        for line in self.written.decode().replace("\r\n", "\n").split("\n"):
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
            shown = ""
            for part in plain.split("\r"):
                shown = part + shown[len(part) :]
            found.append(shown.rstrip())
        return found[:-1] if found[-1] == "" else found


@contextmanager
def pseudo_terminal() -> Iterator[Screen]:
    """Let the output of the process be a terminal of 80 columns while the body runs."""
    screen = Screen()
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 80))

    def read() -> None:
        with suppress(OSError):  # the end, on Linux
            while part := os.read(master, 65536):
                screen.written += part

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(slave, "w") as output, redirect_stdout(output):
            yield screen
    finally:
        reader.join(10)
        os.close(master)
