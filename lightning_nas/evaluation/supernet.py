"""Scores of architectures by a supernet's shared weights."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.architecture import Architecture
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.sets import Batch, LabelledImages, classes_of
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.spaces.base import SupernetSpace
from lightning_nas.spaces.shared_paths import Logits, SharedPaths
from lightning_nas.supernets import TrainedSupernet

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
    """Loss and accuracy of several paths in their order: together where the supernet is one of ``SharedPaths``.

    Args:
        supernet: The network.
        paths: The architectures, as the supernet takes them.
        calibration: Images that the statistics are measured on; none of the others.
        held: Batches of images and labels to score on.
    """
    images = [x for x, _ in held]
    if isinstance(supernet, SharedPaths) and all(supernet.computes(path) for path in paths):
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
    """As ``SharedPaths.path_logits``, for any supernet."""
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


class SupernetScores(Evaluator):
    """Scores architectures on held-out images by the weights that they share.

    Batch-norm statistics are measured anew for every architecture, on training images; the images of the score are
    those of the data's validation set, so that nothing was trained on them if the supernet was trained on the same
    data with the same ``validation_fraction`` and ``split_seed``. A score is kept until the supernet's weights move.

    Objectives: ``loss`` (lower is better) and ``accuracy`` (a fraction). Cost: ``seconds``, shared equally by the
    architectures that are scored together; zero for a score that was kept.

    Attributes:
        version: How often the weights have moved since the start; scores of different versions do not compare.

    Args:
        supernet: ``supernet.safetensors``.
        data: Images with a validation set.
        images: Of the validation set, random ones that scores are taken on; all if null.
        calibration_images: Of the training images, random ones that statistics are measured on, at least 2.
        batch_size: Images that are scored at once, at least 1.
        new_classes: Whether the data have other classes than the supernet's: its classifier is then drawn anew.
        seed: Of the choices of images, and of a new classifier.

    Raises:
        ConfigError: A number is out of its range.
    """

    draws = False

    def __init__(
        self,
        supernet: str,
        data: ImageDataModule,
        images: int | None = None,
        calibration_images: int = 256,
        batch_size: int = 500,
        new_classes: bool = False,
        seed: int = 0,
    ) -> None:
        if (images is not None and images < 1) or calibration_images < 2 or batch_size < 1:
            raise ConfigError(
                f"images is {images}, calibration_images {calibration_images} and batch_size {batch_size}; expected "
                "are at least 1 or null, at least 2, and at least 1."
            )
        self.path = supernet
        self.data = data
        self.images = images
        self.calibration_images = calibration_images
        self.batch_size = batch_size
        self.new_classes = new_classes
        self.seed = seed
        self.version = 0
        self.device = torch.device("cpu")
        self._loaded: TrainedSupernet | None = None
        self._calibration: Tensor | None = None
        self._held: list[Batch] = []
        self._scores: dict[tuple[int, str], dict[str, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """With the weights: whoever gets this elsewhere need not read them, nor draw a classifier of its own."""
        _ = self.loaded
        return dict(vars(self))

    def prepare_data(self) -> None:
        """Download the images."""
        self.data.prepare_data()

    def to(self, device: torch.device) -> None:
        """Score there."""
        self.device = device
        self._calibration = None
        self.loaded.network.to(device)

    @property
    def loaded(self) -> TrainedSupernet:
        """The supernet, for the classes of the data.

        Raises:
            ArtifactError: The file cannot be used.
            DataError: It is of other classes or images.
        """
        if self._loaded is None:
            found = TrainedSupernet.load(self.path)
            if found.image_shape != self.data.image_shape:
                raise DataError(
                    f"{self.path} takes images of shape {found.image_shape}; the data have {self.data.image_shape}. "
                    "Train a supernet on such images."
                )
            classes = self.data.num_classes
            if self.new_classes:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(derived_seed(self.seed, "classifier"))
                    found = found.with_classes(classes)
            elif found.num_classes != classes:
                raise DataError(
                    f"{self.path} is of {found.num_classes} classes; the data have {classes}. To move it to these "
                    "data, set new_classes to true; its classifier is then new and must be trained."
                )
            self._loaded = found
        return self._loaded

    def moved(self) -> None:
        """Say that the weights have changed: scores from before no longer hold."""
        self.version += 1
        self._scores.clear()

    def _batches(self) -> tuple[Tensor, list[Batch]]:
        """Images for the statistics, and batches for the scores."""
        if self._calibration is None:
            validation = self.data.validation_set
            count = len(validation) if self.images is None else self.images
            images, labels = fixed_images(self.data, validation, count, self.seed)
            calibration, _ = fixed_images(self.data, self.data.train_set, self.calibration_images, self.seed)
            self._calibration = calibration.to(self.device)
            pairs = zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
            self._held = [(x.to(self.device), y.to(self.device)) for x, y in pairs]
        return self._calibration, self._held

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Score; see the class."""
        space: SupernetSpace = self.loaded.space
        start = time.perf_counter()
        keys = [(self.version, space.key(architecture)) for architecture in architectures]
        new = {key: a for key, a in zip(keys, architectures, strict=True) if key not in self._scores}
        if new:
            paths = [space.discrete(architecture) for architecture in new.values()]
            scores = score_paths(self.loaded.network, paths, *self._batches())
            self._scores.update(zip(new, scores, strict=True))
        seconds = (time.perf_counter() - start) / max(len(new), 1)
        costs = [{"seconds": seconds if new.pop(key, None) is not None else 0.0} for key in keys]
        return [Evaluation(dict(self._scores[key]), cost) for key, cost in zip(keys, costs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """The version; the weights are the task's."""
        return {"version": self.version}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Evaluator.load_state_dict``."""
        self.moved()
        self.version = state["version"]
