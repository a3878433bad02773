"""Weights of classes in the loss of a task."""

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_nas.checks import greater_than, one_of
from lightning_nas.errors import ConfigError

ClassWeights = list[float] | Literal["balanced"]
"""One weight per class, in the order of the labels, or ``balanced``."""


def check_class_weights(weights: ClassWeights | None, num_classes: int) -> None:
    """Refuse class weights that do not fit, as far as that is known without the data.

    Args:
        weights: The weights; None for a loss without them.
        num_classes: Number of classes.

    Raises:
        ConfigError: The number of weights is not that of the classes, a weight is not a finite number above 0, or the
            name is unknown.
    """
    if weights is None:
        return
    if isinstance(weights, str):
        one_of(("balanced",), class_weights=weights)
        return
    if len(weights) != num_classes:
        raise ConfigError(
            f"class_weights has {len(weights)} values for {num_classes} classes. Give one weight per class, in the "
            "order of the labels, or 'balanced'."
        )
    for index, weight in enumerate(weights):
        greater_than(0, **{f"class_weights[{index}]": weight})
        if weight == float("inf"):
            raise ConfigError(f"class_weights[{index}] is {weight}; it must be finite.")


def check_weights_for(weights: ClassWeights | None, data: Any) -> None:
    """Refuse class weights that do not fit a data module, without reading its images.

    Args:
        weights: The weights; None for a loss without them.
        data: The data module.

    Raises:
        ConfigError: They do not fit the number of classes, or are to be balanced by labels that are not counted.
    """
    if weights == "balanced":
        _check_counts(data)
    elif weights is not None and (classes := listed_classes(data)) is not None:
        check_class_weights(weights, classes)


def listed_classes(data: Any) -> int | None:
    """Number of classes of a data module, without reading its images; None if it does not say.

    Args:
        data: The data module.
    """
    if hasattr(data, "list_parts"):
        return len(data.list_parts()[0].class_names)
    return getattr(data, "num_classes", None)


def make_class_weights(weights: ClassWeights | None, task: LightningModule, num_classes: int) -> Tensor | None:
    """Make the tensor of the class weights at the start of a training.

    Args:
        weights: The weights, as ``check_class_weights`` accepts them.
        task: The task that is trained, in its ``setup``.
        num_classes: Number of classes.

    Returns:
        ``(classes,)``, where the parameters of the task are and of their type; None without weights. Balanced weights
        are inversely proportional to the number of training images of a class, and their mean over the classes is 1.

    Raises:
        ConfigError: The weights are to be balanced, but the data do not count their labels, or lack a class; or a
            weight is 0 or infinite in the type of the parameters.
    """
    if weights is None:
        return None
    like = next(task.parameters())
    if not isinstance(weights, str):
        made = torch.tensor(weights, device="cpu", dtype=like.dtype)
        for index, (weight, value) in enumerate(zip(weights, made.tolist(), strict=True)):
            if not 0 < value < float("inf"):
                raise ConfigError(
                    f"class_weights[{index}] is {weight}, which is {value} as {like.dtype}, the type of the network. "
                    "Only the ratios of the weights matter: give moderate ones."
                )
        return made.to(like.device)
    counts = _counts(task, num_classes)
    inverse = 1 / counts.double()
    balanced = inverse / inverse.mean()
    listed = ", ".join(f"{weight:.4g}" for weight in balanced.tolist())
    rank_zero_info(f"Balanced class weights: {listed:.1000}")
    return balanced.to(device=like.device, dtype=like.dtype)


def _counts(task: LightningModule, num_classes: int) -> Tensor:
    """Number of training images of every class, by the data module."""
    data: Any = getattr(task.trainer, "datamodule", None)
    _check_counts(data)
    counts = torch.as_tensor(data.class_counts(), device="cpu")
    missing = [index for index, count in enumerate(counts.tolist()) if not count > 0]
    if counts.shape != (num_classes,) or missing:
        raise ConfigError(
            f"class_weights is 'balanced', but the training labels of {type(data).__name__} are counted as "
            f"{counts.tolist()!s:.200} for {num_classes} classes. Every class needs an image: add some, or give "
            "class_weights as a list."
        )
    return counts


def _check_counts(data: Any) -> None:
    if not hasattr(data, "class_counts"):
        raise ConfigError(
            f"class_weights is 'balanced', but {type(data).__name__} does not count its training labels: it has no "
            "method class_counts, which returns one number per class. Add it, or give class_weights as a list."
        )
