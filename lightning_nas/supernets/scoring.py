"""Loss and accuracy of single paths of a supernet."""

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
from lightning_nas.spaces.path_scoring import BatchedPathScoring, Logits

MOMENTUM = 0.1
"""Of all batch norms here: what a pass in training mode adds of its batch to the running statistics."""


@contextmanager
def calibrated(supernet: nn.Module, images: Tensor, path: Any) -> Iterator[None]:
    """Give a supernet the batch-norm statistics of one path, measured on one batch, and take them back at the end.

    The running statistics of a supernet are a mixture over all paths, which fits none. One pass in training mode from
    statistics of zero leaves 0.1 of those of the batch.

    Args:
        supernet: In eval mode inside.
        images: The batch, ``(batch, channels, height, width)``.
        path: The architecture, as the supernet takes it.

    Raises:
        ConfigError: A batch norm has another momentum.
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


def score_path(supernet: nn.Module, path: Any, calibration: Tensor, held: Sequence[Batch]) -> dict[str, float]:
    """Loss and accuracy (a fraction) of one path, with batch-norm statistics of its own.

    Args:
        supernet: The network.
        path: The architecture, as the supernet takes it.
        calibration: Images that the statistics are measured on; none of the others.
        held: Batches of images and labels to score on.
    """
    return score_paths(supernet, [path], calibration, held)[0]


def score_paths(
    supernet: nn.Module, paths: Sequence[Any], calibration: Tensor, held: Sequence[Batch]
) -> list[dict[str, float]]:
    """Loss and accuracy of several paths in their order: together where the supernet is one of ``BatchedPathScoring``.

    Args:
        supernet: The network.
        paths: The architectures, as the supernet takes them.
        calibration: Images that the statistics are measured on; none of the others.
        held: Batches of images and labels to score on.
    """
    images = [x for x, _ in held]
    if isinstance(supernet, BatchedPathScoring) and all(supernet.supports(path) for path in paths):
        found = supernet.path_logits(paths, calibration, images)
    else:
        found = _one_by_one(supernet, paths, calibration, images)
    sums: list[list[Tensor]] = [[] for _ in paths]
    with torch.no_grad(), closing(found):
        for place, batch, logits in found:
            labels = held[batch][1]
            loss = F.cross_entropy(logits, labels, reduction="sum")
            sums[place].append(torch.stack([loss, (logits.argmax(1) == classes_of(labels)).sum().to(loss)]))
    # read once for all: on a GPU, reading waits for it
    rows = torch.stack([torch.stack(each) for each in sums]).tolist() if sums else []
    count = sum(len(labels) for _, labels in held)
    totals = [[sum(column) for column in zip(*each, strict=True)] for each in rows]
    return [{"loss": loss / count, "accuracy": hits / count} for loss, hits in totals]


def _one_by_one(supernet: nn.Module, paths: Sequence[Any], calibration: Tensor, batches: Sequence[Tensor]) -> Logits:
    """As ``BatchedPathScoring.path_logits``, for any supernet."""
    for place, path in enumerate(paths):
        with calibrated(supernet, calibration, path):
            for batch, images in enumerate(batches):
                yield place, batch, supernet(images, path)


def fixed_images(data: ImageDataModule, images: LabelledImages, count: int, seed: int) -> Batch:
    """Random images, normalised but not augmented; the same arguments give the same ones.

    Args:
        data: Prepares them.
        images: ``data.train_set`` or ``data.validation_set``.
        count: How many; all where there are fewer.
        seed: Of the choice.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "images"))
    chosen = torch.randperm(len(images), generator=generator)[:count].tolist()
    return data.prepare(images.__getitems__(chosen))
