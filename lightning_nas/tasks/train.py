"""Final training of one architecture."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, within
from lightning_nas.data.sets import Batch, classes_of
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.files.checkpoints import local_path
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.spaces.published import as_text, is_published, parse_published
from lightning_nas.spaces.sized import build_network, taken_arguments
from lightning_nas.tasks.base import MIXED, Task
from lightning_nas.tasks.class_weights import (
    ClassWeights,
    check_class_weights,
    check_weights_for,
    listed_classes,
    make_class_weights,
)
from lightning_nas.tasks.common import EpochMeans, check_labels, check_sizes, check_state
from lightning_nas.tasks.initial_weights import load_initial_weights
from lightning_nas.tasks.optimization import configure
from lightning_nas.tasks.own_metrics import check_metrics, make_metrics

_NAMES = ("loss", "accuracy", "top5")
"""Metrics of every training."""

NetworkCallable = Callable[[tuple[int, int, int], int], nn.Module]
"""Maps ``(channels, height, width)`` of an image and the number of classes to a network."""

Network = NetworkCallable | nn.Module
"""A network, or what makes one."""


class TrainTask(Task):
    """Trains the network of an architecture, or any other network, from scratch, and tests it.

    The loss is

        CE(logits) + auxiliary_weight * CE(auxiliary logits)

    with the class weights and the label smoothing in both terms; the loss on validation and test images is the plain
    cross-entropy. The probability of dropping a path rises linearly from 0 in the first step to ``drop_path`` in the
    last. Gradient clipping, precision and the number of epochs are options of the trainer. The figure to report is the
    test accuracy after the last epoch, tested once.

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Args:
        architecture: Path of an ``architecture.json``, or the architecture itself in its published form:
            ``Genotype(normal=[...], ...)`` of DARTS or ``|nor_conv_3x3~0|+...`` of NAS-Bench-201, with or without a
            name before it, or as nested lists; see ``parse_published``. Null if ``network`` is given.
        optimizer: Optimizer of the network weights, which must be given (DARTS: SGD with lr 0.025, momentum 0.9, weight
            decay 3e-4).
        scheduler: Learning rate scheduler, stepped after every epoch (DARTS: cosine down to 0); a constant rate if
            null.
        channels: Channels of the first cell, at least 1 (DARTS: 36 on CIFAR). Without effect on networks of a space
            that have no such size, as the next argument.
        cells: Number of cells, at least 1 (DARTS: 20 on CIFAR).
        auxiliary_weight: Weight of the auxiliary classifier's loss, at least 0; with 0 there is no auxiliary classifier
            (DARTS: 0.4).
        drop_path: Probability of dropping a path at the end of the training, at least 0 and below 1 (DARTS: 0.2).
        label_smoothing: Label smoothing of the loss, from 0 to 1 (DARTS: 0 on CIFAR, 0.1 on ImageNet).
        class_weights: Weights of the classes in the loss, for classes with different numbers of images: one number
            above 0 per class, in the order of the labels, or ``balanced``, for weights that are inversely proportional
            to the number of training images and have a mean of 1 over the classes. They enter as the ``weight`` of
            ``torch.nn.functional.cross_entropy``, which divides by the sum of the weights of a batch's labels or, where
            labels are soft, by the number of its images. Null, the default, weights all classes alike.
        metrics: Further metrics of validation and test, by name: each a class path of a ``torchmetrics.Metric``, or
            ``class_path`` and ``init_args``. A metric ``f1`` is logged as ``val/f1`` and ``test/f1``, after every epoch
            or test, and can be monitored by callbacks. It receives probabilities ``(batch, classes)`` and labels, and
            must compute one number. Arguments ``num_classes`` and ``task`` need not be given.
        initial_weights: Path or URL of a checkpoint of another final training of the same architecture and size, from
            whose weights the training starts. It may have been of another number of classes: classifiers start from
            random weights then. The log says which tensors are copied. Null, the default, starts from random weights; a
            resumed run does not read the file again.
        network_arguments: Further arguments of the space's ``network``.
        network: Network to train instead of an architecture's: a module, or anything that makes one when called with
            ``image_shape`` and ``num_classes``. In YAML a class path, with further arguments: ``CIFARResNet``,
            ``ConvNet``, ``TorchvisionNetwork`` or ``TimmNetwork`` with the name of one of their networks, or a class of
            your own that takes these two first. The arguments that size an architecture's network do not change it.
        num_classes: Number of classes; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.

    Attributes:
        inputs: Files that the task was made from, by kind of artifact.

    Raises:
        ConfigError: An argument is out of its range or does not apply to the network, there is no optimizer, or
            ``architecture`` and ``network`` are both given or both missing.
        ArtifactError: The file of the architecture is missing or damaged.
        ArchitectureError: The architecture is not a point of its space.

    Example:
        ```yaml
        model:
          class_path: TrainTask
          init_args:
            architecture: architecture.json
            channels: 36
            cells: 20
            optimizer:
              class_path: torch.optim.SGD
              init_args: {lr: 0.025, momentum: 0.9, weight_decay: 3.0e-4}
            scheduler:
              class_path: torch.optim.lr_scheduler.CosineAnnealingLR
              init_args: {T_max: 600}
        data:
          class_path: CIFAR10DataModule
        ```
    """

    metrics_logged: tuple[str, ...] = (
        "train/loss",
        "train/accuracy",
        "train/top5",
        "val/loss",
        "val/accuracy",
        "val/top5",
    )
    precisions = (*MIXED, "bf16-true", "16-true", "64-true")
    overfits = True
    reads_anew = ("metrics",)
    loss_weights: Tensor | None

    def __init__(
        self,
        architecture: str | list[Any] | dict[str, Any] | None = None,  # the parser takes a null for it only so
        *,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        channels: int = 36,
        cells: int = 20,
        auxiliary_weight: float = 0.0,
        drop_path: float = 0.0,
        label_smoothing: float = 0.0,
        network_arguments: dict[str, Any] | None = None,
        network: Network | None = None,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        class_weights: ClassWeights | None = None,
        metrics: dict[str, Any] | None = None,
        initial_weights: str | None = None,
    ) -> None:
        super().__init__()
        check_class_weights(class_weights, num_classes)
        at_least(1, channels=channels, cells=cells)
        at_least(0, auxiliary_weight=auxiliary_weight)
        within("[0, 1)", drop_path=drop_path)
        within("[0, 1]", label_smoothing=label_smoothing)
        self.architecture: Architecture | None = None
        self.inputs: dict[str, list[Path]] = {}
        if architecture is not None:
            architecture = as_text(architecture)
            published = is_published(architecture)
            self.architecture = parse_published(architecture) if published else load_architecture(architecture)
            self.inputs = {} if published else {"architecture": [Path(architecture)]}
        self.initial_weights = initial_weights
        path = None if initial_weights is None else local_path(initial_weights)
        if path is not None and path.is_file():
            self.inputs["initial_weights"] = [path]
        self.has_weights = False
        if optimizer is None:
            raise ConfigError("TrainTask has no optimizer. Give it one, such as optimizer: torch.optim.SGD.")
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.auxiliary_weight = auxiliary_weight
        self.drop_path = drop_path
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.register_buffer("loss_weights", None, persistent=False)
        self.network_arguments = {
            "num_classes": num_classes,
            "image_shape": list(image_shape),
            "channels": channels,
            "cells": cells,
            "auxiliary": auxiliary_weight > 0,
            **(network_arguments or {}),
        }
        made = self._make(network, num_classes, image_shape)
        if drop_path and not hasattr(made, "drop"):
            raise ConfigError(f"{type(made).__name__} cannot drop paths: drop_path is {drop_path}. Set it to 0.")
        # depthwise convolutions are faster in this layout, on a CPU and with tensor cores; the values are the same
        self.network: Any = made.to(memory_format=torch.channels_last)
        own: dict[str, Any] = make_metrics(metrics or {}, num_classes, _NAMES)
        self.metrics_logged = (*self.metrics_logged, *(f"val/{name}" for name in own))
        usual: dict[str, Metric | MetricCollection] = {"accuracy": MulticlassAccuracy(num_classes, average="micro")}
        if num_classes > 5:
            usual["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
        else:
            self.metrics_logged = tuple(name for name in self.metrics_logged if not name.endswith("/top5"))
        self.metrics = _for_splits(usual)
        # metrics of the user are not merged, as equal states on one batch do not make them the same
        self.own_metrics = _for_splits(own, compute_groups=False) if own else None
        self.means = EpochMeans()  # for training only, where the time of a batch matters

    def _make(self, network: Network | None, classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        if (self.architecture is None) == (network is None):
            raise ConfigError(
                "Give either an architecture or a network: --model.architecture FILE or --model.network CLASS_PATH."
            )
        if self.architecture is not None:
            return self._make_network(self.architecture)
        assert network is not None
        if self.auxiliary_weight:
            raise ConfigError(
                f"auxiliary_weight is {self.auxiliary_weight}; only networks of architectures have an auxiliary "
                "classifier. Set it to 0."
            )
        if isinstance(network, nn.Module):
            return network
        try:
            made: Any = network(image_shape, classes)
        except TypeError as error:
            raise ConfigError(
                f"network cannot be made of image_shape {tuple(image_shape)} and {classes} classes ({error!s:.300}). "
                "Give a module, or a function or class that takes these two, such as CIFARResNet or "
                "TorchvisionNetwork."
            ) from None
        if not isinstance(made, nn.Module):
            raise ConfigError(f"network makes an object of {type(made).__name__}; it must make a torch.nn.Module.")
        return made

    def _make_network(self, architecture: Architecture) -> nn.Module:
        """The network of an architecture, of the sizes that networks of its space have."""
        space = build_space(architecture.space)
        self.network_arguments = taken_arguments(space, self.network_arguments)
        unused = [name for name in ("channels", "cells") if name not in self.network_arguments]
        if unused:
            rank_zero_info(f"Networks of {type(space).__name__} are not sized by {' and '.join(unused)}.")
        return build_network(space, architecture, **self.network_arguments)

    @classmethod
    def metrics_of(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """See ``Task.metrics_of``.

        Raises:
            ConfigError: There is no metric of a given name.
        """
        own = check_metrics(arguments.get("metrics") or {}, _NAMES)
        return (*cls.metrics_logged, *(f"val/{name}" for name in own))

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any], data: Any) -> None:
        """Refuse class weights and metrics that do not fit the data; see ``Task.check_arguments``."""
        check_weights_for(arguments.get("class_weights"), data)
        metrics = arguments.get("metrics")
        if metrics and (classes := listed_classes(data)) is not None:
            make_metrics(metrics, classes, _NAMES)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits ``(batch, classes)``."""
        logits: Tensor = self.network(x)
        return logits

    def setup(self, stage: str) -> None:
        """Forget the sums of an earlier training, and compare the network with the data.

        Raises:
            ConfigError: The data module names another number of classes or another shape of images.
        """
        self.means.clear()
        num_classes = self.network_arguments["num_classes"]
        check_sizes(self, num_classes, self.network_arguments["image_shape"])
        if stage == "fit":
            self.loss_weights = make_class_weights(self.class_weights, self, num_classes)

    @property
    def follows_course(self) -> str:
        """The probability of dropping a path, unless it is 0; see ``Task.follows_course``."""
        return f"drop_path grows to {self.drop_path} in the course of the training" if self.drop_path else ""

    def on_fit_start(self) -> None:
        """Copy the initial weights, unless the task has weights of a checkpoint or of an earlier fit.

        Raises:
            CheckpointError: They are of another network.
        """
        if self.initial_weights is not None and not self.has_weights:
            classes, architecture = self.network_arguments["num_classes"], self._plain_architecture()
            load_initial_weights(self.initial_weights, self.network, classes, architecture)
        self.has_weights = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss on one batch."""
        images, labels = batch
        images = images.contiguous(memory_format=torch.channels_last)
        if self.drop_path:
            self.network.drop = self.drop_path * self.progress
        if self.auxiliary_weight:
            logits, auxiliary = self.network.forward_auxiliary(images)
        else:
            logits, auxiliary = self(images), None
        self._check_outputs(logits)
        check_labels(labels, logits.shape[1], batch_idx)
        options: dict[str, Any] = {"weight": self.loss_weights, "label_smoothing": self.label_smoothing}
        loss = F.cross_entropy(logits, labels, **options)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * F.cross_entropy(auxiliary, labels, **options)
        self.means.add({"train/loss": loss, **self._accuracies(logits, labels)}, len(labels))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the training if its loss is not finite."""
        self.means.check(self, batch_idx)

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch."""
        self.means.log(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy on the validation set."""
        logits = self(batch[0])
        self._check_outputs(logits)
        check_labels(batch[1], logits.shape[1], batch_idx)
        self._log("val", logits, batch[1], F.cross_entropy(logits, batch[1]))

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log loss and accuracy on the test set, and return class probabilities ``(batch, classes)`` to callbacks."""
        logits: Tensor = self(batch[0])
        self._check_outputs(logits)
        check_labels(batch[1], logits.shape[1], batch_idx)
        self._log("test", logits, batch[1], F.cross_entropy(logits, batch[1]))
        return logits.softmax(dim=1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return class probabilities ``(batch, classes)``."""
        probabilities: Tensor = self(batch[0]).softmax(dim=1)
        return probabilities

    def _check_outputs(self, logits: Tensor) -> None:
        """Refuse a network of other outputs than one per class, which the labels may fit all the same."""
        classes = self.network_arguments["num_classes"]
        if logits.ndim != 2 or logits.shape[1] != classes:
            raise ConfigError(
                f"{type(self.network).__name__} computes {tuple(logits.shape)} for a batch; (images, {classes}) was "
                "expected: one output per class. Make it of the image shape and the number of classes that network "
                "is called with."
            )

    def _accuracies(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        labels = classes_of(labels)
        found = {"train/accuracy": (logits.argmax(1) == labels).float().mean()}
        if logits.shape[1] > 5:
            best = logits.detach().topk(5, dim=1).indices
            found["train/top5"] = (best == labels.unsqueeze(1)).any(1).float().mean()
        return found

    def _log(self, split: str, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        metrics: Any = self.metrics[split]
        metrics.update(logits.detach(), labels)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True}
        self.log(f"{split}/loss", loss.detach(), prog_bar=True, batch_size=len(labels), sync_dist=True, **options)
        self.log_dict(metrics, **options)
        if self.own_metrics is not None:
            own: Any = self.own_metrics[split]
            own.update(logits.detach().float().softmax(1), labels)
            self.log_dict(own, **options)

    def configure_optimizers(self) -> Any:
        """Make the optimizer, and the scheduler if there is one."""
        return configure(self.parameters(), self.make_optimizer, self.make_scheduler, self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what an export needs, so that it works from the checkpoint alone.

        Raises:
            TrainingError: A loss or a parameter is not finite.
        """
        self.means.save(self, checkpoint)
        if self.architecture is None:
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        checkpoint["export"] = {
            "architecture": self._plain_architecture(),
            "network": self.network_arguments,
            "class_names": [str(name) for name in getattr(data, "class_names", [])],
            "mean": [float(v) for v in getattr(data, "mean", [])],
            "std": [float(v) for v in getattr(data, "std", [])],
            "data": _described(data),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another network, even one whose parameters would fit.

        Raises:
            CheckpointError: The checkpoint is of another architecture or size.
        """
        made = checkpoint["export"]["architecture"] if "export" in checkpoint else None
        if made != self._plain_architecture():
            raise CheckpointError(
                f"The checkpoint is of another architecture: {_choices(made)} in the checkpoint, "
                f"{_choices(self._plain_architecture())} here. Set --model.architecture to the file that it was "
                "trained with."
            )
        check_state(self, checkpoint)
        self.has_weights = True
        self.means.load(self, checkpoint)

    def _plain_architecture(self) -> dict[str, Any] | None:
        if self.architecture is None:
            return None
        plain: dict[str, Any] = json.loads(json.dumps(self.architecture.to_dict()))
        return plain


def _for_splits(metrics: dict[str, Any], **options: Any) -> nn.ModuleDict:
    """Metrics of validation and test, which are separate."""
    return nn.ModuleDict(
        {split: MetricCollection(metrics, prefix=f"{split}/", **options).clone() for split in ("val", "test")}
    )


def _choices(architecture: dict[str, Any] | None) -> str:
    return "none" if architecture is None else f"choices {architecture['choices']}"


def _described(data: Any) -> dict[str, Any]:
    """Return class path, name, number of training images and resizing of a data module, as far as they are known."""
    if data is None:
        return {}
    images = {"train_images": len(data.train_set)} if hasattr(data, "train_set") else {}
    known = {key: str(getattr(data, key)) for key in ("title", "resize") if hasattr(data, key)}
    return {"class": f"{type(data).__module__}.{type(data).__qualname__}", **images, **known}
