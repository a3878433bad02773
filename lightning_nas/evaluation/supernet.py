"""Scores of architectures by a supernet's shared weights."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.spaces.base import SupernetSpace
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.supernets.scoring import fixed_images, score_paths


class SupernetEvaluator(Evaluator):
    """Scores architectures on held-out images by the weights that they share.

    Batch-norm statistics are measured anew for every architecture, on training images; the images of the score are
    those of the data's validation set, so that nothing was trained on them if the supernet was trained on the same
    data with the same ``validation_fraction`` and ``split_seed``. A score is kept until the supernet's weights move.

    Objectives: ``loss`` (lower is better) and ``accuracy`` (a fraction). Cost: ``seconds``, shared equally by the
    architectures that are scored together; zero for a score that was kept.

    Attributes:
        version: How often the weights have moved since the start; scores of different versions do not compare.

    Args:
        supernet_path: ``supernet.safetensors``.
        data: Images with a validation set.
        images: Of the validation set, random ones that scores are taken on; all if null.
        calibration_images: Of the training images, random ones that statistics are measured on, at least 2.
        batch_size: Images that are scored at once, at least 1.
        new_classes: Whether the data have other classes than the supernet's: its classifier is then drawn anew.
        seed: Of the choices of images, and of a new classifier.

    Raises:
        ConfigError: A number is out of its range.
    """

    stochastic = False

    def __init__(
        self,
        supernet_path: str,
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
        self.supernet_path = supernet_path
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
            found = TrainedSupernet.load(self.supernet_path)
            if found.image_shape != self.data.image_shape:
                raise DataError(
                    f"{self.supernet_path} takes images of shape {found.image_shape}; the data have "
                    f"{self.data.image_shape}. Train a supernet on such images."
                )
            classes = self.data.num_classes
            if self.new_classes:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(derived_seed(self.seed, "classifier"))
                    found = found.with_classes(classes)
            elif found.num_classes != classes:
                raise DataError(
                    f"{self.supernet_path} is of {found.num_classes} classes; the data have {classes}. To move it to "
                    "these data, set new_classes to true; its classifier is then new and must be trained."
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
            paths = [space.to_path(architecture) for architecture in new.values()]
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
