"""Scores of architectures with the shared weights of a supernet."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import DataError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.spaces.base import SupernetSpace
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.supernets.scoring import fixed_images, score_paths


class SupernetEvaluator(Evaluator):
    """Scores architectures on held-out images with the shared weights of a trained supernet.

    Batch-norm statistics are measured anew for every architecture, on training images, because the running statistics
    of a supernet fit none of its paths. Scores are taken on the validation set of the data, on which the supernet was
    not trained if it was trained on the same data with the same ``validation_fraction`` and ``split_seed``. A score is
    kept until the weights of the supernet change.

    Objectives: ``loss`` (lower is better) and ``accuracy`` (a fraction). Cost: ``seconds``, shared equally by the
    architectures that are scored together; 0 for a score that was kept.

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420

    Attributes:
        version: Counts how often the weights have changed since the start.

    Args:
        supernet_path: Path of the ``supernet.safetensors`` that ``SupernetTask`` has written.
        data: Images with a validation set.
        images: Number of validation images that scores are taken on, drawn at random; null takes all.
        calibration_images: Number of training images that statistics are measured on, drawn at random, at least 2.
        batch_size: Images per batch when a path is scored, at least 1.
        new_classes: Whether the data have other classes than the supernet; if so, the classifier is replaced by a new
            one, which has to be trained.
        seed: Seed of the choices of images, and of a new classifier.

    Raises:
        ConfigError: A number is too small.

    Example:
        ```yaml
        evaluator:
          class_path: SupernetEvaluator
          init_args:
            supernet_path: supernet/supernet.safetensors
            data: {class_path: CIFAR10DataModule, init_args: {validation_fraction: 0.1}}
            images: 1000
        ```
    """

    stochastic = False
    joint = True

    def __init__(
        self,
        supernet_path: str,
        *,
        data: ImageDataModule,
        images: int | None = None,
        calibration_images: int = 256,
        batch_size: int = 500,
        new_classes: bool = False,
        seed: int = 0,
    ) -> None:
        at_least(1, images=images, batch_size=batch_size)
        at_least(2, calibration_images=calibration_images)
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
        """The state for a worker, with the weights: it needs no file, and all workers have the same new classifier."""
        _ = self.loaded
        return dict(vars(self))

    def prepare_data(self) -> None:
        """Download the images."""
        self.data.prepare_data()

    def data_modules(self) -> list[Any]:
        """See ``Evaluator.data_modules``."""
        return [self.data]

    def check(self) -> None:
        """Refuse data without a validation set, which paths are scored on; see ``Evaluator.check``."""
        if self.data.list_parts()[1] is None:
            raise DataError(
                f"The data of {type(self).__name__} have no validation set, which paths are scored on. Set their "
                "validation_fraction above 0, such as to 0.1."
            )

    def to(self, device: torch.device) -> None:
        """Score on this device from now on."""
        self.device = device
        self._calibration = None
        self.loaded.network.to(device)

    @property
    def loaded(self) -> TrainedSupernet:
        """The supernet with a classifier for the classes of the data, read at the first access.

        Raises:
            ArtifactError: The file cannot be used.
            DataError: The supernet takes images of another shape, or has other classes.
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
                    f"{self.supernet_path} has {found.num_classes} classes; the data have {classes}. To move it to "
                    "these data, set new_classes to true; its classifier is then new and must be trained."
                )
            self._loaded = found
        return self._loaded

    def weights_changed(self) -> None:
        """Forget all scores, because the weights of the supernet have changed."""
        self.version += 1
        self._scores.clear()

    def batches(self) -> tuple[Tensor, list[Batch]]:
        """The images that statistics are measured on, and the batches that scores are taken on."""
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
        """Score architectures; see ``Evaluator.evaluate``.

        Raises:
            ArtifactError: The supernet cannot be read.
            DataError: The data have no validation set, or the supernet is for other images or classes.
        """
        space: SupernetSpace = self.loaded.space
        start = time.perf_counter()
        keys = [(self.version, space.key(architecture)) for architecture in architectures]
        new = {key: a for key, a in zip(keys, architectures, strict=True) if key not in self._scores}
        if new:
            paths = [space.to_path(architecture) for architecture in new.values()]
            scores = score_paths(self.loaded.network, paths, *self.batches())
            self._scores.update(zip(new, scores, strict=True))
        seconds = (time.perf_counter() - start) / max(len(new), 1)
        costs = [{"seconds": seconds if new.pop(key, None) is not None else 0.0} for key in keys]
        return [Evaluation(dict(self._scores[key]), cost) for key, cost in zip(keys, costs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """The version; the task that trains the weights stores them."""
        return {"version": self.version}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the version, and forget all scores."""
        self.weights_changed()
        self.version = state["version"]
