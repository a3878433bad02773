"""What exported files do with real images, and how long they take."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.data.examples import Examples
from lightning_nas.data.sets import Batch, classes_of
from lightning_nas.errors import DataError, ExportError
from lightning_nas.export.formats import Description
from lightning_nas.export.preprocessing import Preprocessing
from lightning_nas.terminal import INDENT, Progress, tell

LEVELS = 1.01
"""Largest allowed difference between pixels of a file's preprocessing and of the data module, in 255 levels: Pillow
rounds to whole levels twice when it resizes an image, each time by up to half a level."""

LATENCY_BATCHES = (1, 32)
"""Images in the batches whose latency is measured."""

LONGEST = 2.0
"""Seconds that a batch may be expected to take; larger ones are not measured."""

REPEATS = 10
"""Runs of a batch whose median is its latency."""

Network = Callable[[Tensor], Tensor]
"""A loaded file: from images as it takes them to logits."""


@dataclass(frozen=True)
class Accuracy:
    """How often a file is right that does not compute exactly what the network does.

    Attributes:
        file: Name of the file.
        accuracy: Fraction of the images about which it is right.
        changed: Number of images for which it predicts another class than the network.
    """

    file: str
    accuracy: float
    changed: int


@dataclass(frozen=True)
class Latency:
    """How long a file takes.

    Attributes:
        file: Name of the file.
        milliseconds: Median of a batch, by its number of images.
    """

    file: str
    milliseconds: dict[int, float]


@dataclass(frozen=True)
class Measured:
    """What was measured of the files of an export.

    Attributes:
        examples: Number of training images on which the preprocessing was compared with the data module; 0 if none.
        levels: Largest difference of a pixel, in 255 levels.
        part: Part of the data that ``accuracies`` were measured on: ``test`` or ``validation``.
        images: Number of its images.
        accuracy: Accuracy of the network itself on them.
        accuracies: Files that do not compute exactly what the network does.
        latencies: All files.
        threads: Number of threads that they ran on.
    """

    examples: int = 0
    levels: float | None = None
    part: str = ""
    images: int = 0
    accuracy: float | None = None
    accuracies: list[Accuracy] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    threads: int = 1


def check_preprocessing(description: Description, examples: Examples) -> float:
    """Compare the preprocessing of files with that of the data module on real images.

    Args:
        description: What the files say about the network; they take raw images.
        examples: Images before and after the data module's own preparation.

    Returns:
        The largest difference of a pixel, in 255 levels.

    Raises:
        ExportError: The data module does something else to its images.
    """
    assert description.resize is not None
    expected = examples.prepared.detach().float().cpu()
    if tuple(expected.shape[1:]) != description.image_shape:
        raise ExportError(
            f"The data module prepares images of shape {tuple(expected.shape[1:])}, but the network was trained on "
            f"{description.image_shape}. Give the data of the training."
        )
    own = Preprocessing(description.image_shape, description.mean, description.std, description.resize)
    prepared = torch.cat([own(image[None]) for image in examples.originals])
    levels = float(((prepared - expected).abs() * own.std).max()) * 255
    if not levels <= LEVELS:
        raise ExportError(
            f"The preprocessing of the files differs from the data module's by {levels:.3g} of 255 levels on its own "
            f"images, and at most {LEVELS:g} is allowed: they are other data than those of the training, or the data "
            "module does something else to images than resizing and normalizing them. Set raw_images to false "
            "(--raw_images false, --stages.export.raw_images false), and prepare images for the files yourself."
        )
    return levels


def held_out(data: Any) -> tuple[str, Iterable[Batch]]:
    """Return batches of the test images of a data module or, if it has none, of its validation images.

    Raises:
        DataError: It has neither.
    """
    data.setup("test")
    try:
        return "test", data.test_dataloader()
    except DataError:
        return "validation", data.val_dataloader()


@torch.no_grad()
def measure_accuracies(
    network: nn.Module, files: Mapping[str, Network], data: Any, raw: bool
) -> tuple[str, int, float, list[Accuracy]]:
    """Measure the accuracy of files, and that of the network, on the same images.

    Args:
        network: The network, which gets images as the data module prepares them.
        files: Loaded files by name.
        data: The data module.
        raw: Whether the files take raw images.

    Returns:
        The part of the data, its number of images, the accuracy of the network, and those of the files.

    Raises:
        DataError: The data module has neither test nor validation images.
    """
    part, batches = held_out(data)
    images, right = 0, 0
    found = {name: [0, 0] for name in files}
    progress = Progress(f"accuracy of {', '.join(files)}, batches")
    for batch in batches:
        progress.step()
        labels = classes_of(batch[1])
        prepared = data.on_after_batch_transfer(batch, 0)[0]
        predicted = network(prepared).argmax(1)
        images += len(labels)
        right += int((predicted == labels).sum())
        for name, file in files.items():
            own = file(batch[0] if raw else prepared).argmax(1)
            found[name][0] += int((own == labels).sum())
            found[name][1] += int((own != predicted).sum())
    accuracies = [Accuracy(name, correct / images, changed) for name, (correct, changed) in found.items()]
    return part, images, right / images, accuracies


@torch.no_grad()
def measure_latencies(files: Mapping[str, Network], description: Description) -> list[Latency]:
    """Measure how long files take on this machine, with as many threads as torch uses.

    Args:
        files: Loaded files by name.
        description: What they take: images of the network's own size.
    """
    found = []
    tell(f"{INDENT}measuring the latency of {', '.join(files)}")
    for name, file in files.items():
        measured: dict[int, float] = {}
        for size in LATENCY_BATCHES:
            shape = (size, *description.image_shape)
            raw = description.resize is not None
            images = torch.zeros(shape, dtype=torch.uint8 if raw else torch.float32)
            if measured and measured[LATENCY_BATCHES[0]] * size > 1000 * LONGEST:
                break
            file(images)  # the first run allocates memory
            measured[size] = _median(file, images)
        found.append(Latency(name, measured))
    return found


def _median(file: Network, images: Tensor) -> float:
    """Median milliseconds of a run."""
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < LONGEST:
        start = time.perf_counter()
        file(images)
        seconds.append(time.perf_counter() - start)
    return 1000 * sorted(seconds)[len(seconds) // 2]
