"""Loss and accuracy of single paths of a supernet, each with batch-norm statistics of its own."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.sets import Batch, LabelledImages, classes_of
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.kernels import MOMENTUM
from lightning_nas.spaces.path_scoring import BatchedPathScoring, Logits


def fixed_images(data: ImageDataModule, images: LabelledImages, count: int, seed: int) -> Batch:
    """Draw random images, normalized but not augmented. The same arguments give the same images.

    Args:
        data: Data module that normalizes the images.
        images: ``data.train_set`` or ``data.validation_set``.
        count: Number of images; all of them if there are fewer.
        seed: Seed of the choice.

    Returns:
        Images ``(count, channels, height, width)`` and their labels.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "images"))
    chosen = torch.randperm(len(images), generator=generator)[:count].tolist()
    return data.prepare(images.__getitems__(chosen))


def score_paths(
    supernet: nn.Module, paths: Sequence[Any], calibration: Tensor, batches: Sequence[Batch]
) -> list[dict[str, float]]:
    """Measure the loss and accuracy of several paths.

    A supernet that supports ``BatchedPathScoring`` computes them together, any other one path by path.

    Args:
        supernet: The supernet.
        paths: The paths, as the supernet takes them.
        calibration: Images on which batch-norm statistics are measured, ``(n, channels, height, width)``. They must
            not be among the images that are scored.
        batches: Batches of images and labels to score on.

    Returns:
        ``loss`` (mean cross-entropy) and ``accuracy`` (from 0 to 1) of each path, in the order of ``paths``.

    Raises:
        ConfigError: A batch norm of the supernet has an unknown momentum.
    """
    images = [x for x, _ in batches]
    if isinstance(supernet, BatchedPathScoring) and all(supernet.supports(path) for path in paths):
        found = supernet.path_logits(paths, calibration, images)
    else:
        found = _one_by_one(supernet, paths, calibration, images)
    sums: list[list[Tensor]] = [[] for _ in paths]
    with torch.no_grad(), closing(found):
        for place, batch, logits in found:
            labels = batches[batch][1]
            loss = F.cross_entropy(logits, labels, reduction="sum")
            sums[place].append(torch.stack([loss, (logits.argmax(1) == classes_of(labels)).sum().to(loss)]))
    # read once for all paths: on a GPU, each reading would wait for it
    rows = torch.stack([torch.stack(each) for each in sums]).tolist() if sums else []
    count = sum(len(labels) for _, labels in batches)
    totals = [[sum(column) for column in zip(*each, strict=True)] for each in rows]
    return [{"loss": loss / count, "accuracy": hits / count} for loss, hits in totals]


def _one_by_one(supernet: nn.Module, paths: Sequence[Any], calibration: Tensor, batches: Sequence[Tensor]) -> Logits:
    """Yield what ``BatchedPathScoring.path_logits`` yields, for any supernet."""
    for place, path in enumerate(paths):
        with calibrated(supernet, calibration, path):
            for batch, images in enumerate(batches):
                yield place, batch, supernet(images, path)


@contextmanager
def calibrated(supernet: nn.Module, images: Tensor, path: Any) -> Iterator[None]:
    """Give a supernet the batch-norm statistics of one path inside a block, and restore its own afterwards.

    The running statistics of a supernet are a mixture over all paths and fit none of them. One forward pass in training
    mode, from statistics of zero, leaves 0.1 times those of the batch, which are then divided by 0.1. Inside the block
    the supernet is in eval mode.

    Args:
        supernet: The supernet.
        images: The batch on which statistics are measured, ``(batch, channels, height, width)``.
        path: The path, as the supernet takes it.

    Raises:
        ConfigError: A batch norm has a momentum other than 0.1.
    """
    norms = [m for m in supernet.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    other = [m for m in norms if m.track_running_stats and m.momentum != MOMENTUM]
    if other:
        raise ConfigError(f"A batch norm of the supernet has the momentum {other[0].momentum}; it must be {MOMENTUM}.")
    kept = [(buffer, buffer.clone()) for buffer in supernet.buffers()]
    training = supernet.training
    with torch.no_grad():
        try:
            for buffer, _ in kept:
                if buffer.is_floating_point():
                    buffer.zero_()
            supernet.train()
            supernet(images, path)
            for buffer, _ in kept:
                if buffer.is_floating_point():
                    buffer.div_(MOMENTUM)
            supernet.eval()
            yield
        finally:
            for buffer, value in kept:
                buffer.copy_(value)
            supernet.train(training)
