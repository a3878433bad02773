"""Metrics of the user in the evaluation of a task."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pydoc import ErrorDuringImport, locate
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_nas.errors import ConfigError

_HOW = (
    "Name a subclass of torchmetrics.Metric by its class_path, and give its arguments as init_args, such as metrics: "
    "{f1: {class_path: torchmetrics.F1Score, init_args: {average: macro}}}."
)


def check_metrics(given: Mapping[str, Any], taken: Sequence[str]) -> dict[str, type[Metric]]:
    """Find the classes of metrics.

    Args:
        given: For every name, a metric, a class path, or a dictionary of ``class_path`` and ``init_args``.
        taken: Names of the metrics that the task has anyway.

    Returns:
        The class of every metric by name.

    Raises:
        ConfigError: A name is taken or cannot be one, or there is no such subclass of ``torchmetrics.Metric``.
    """
    classes = {}
    collection = MetricCollection({})
    for name, each in given.items():
        if not isinstance(name, str) or not name.isidentifier() or name in taken:
            raise ConfigError(
                f"metrics has the name {name!r:.100}; names must consist of letters, digits and underscores, and must "
                f"not be one of {', '.join(taken)}. Use another name."
            )
        if hasattr(collection, name):
            raise ConfigError(
                f"metrics has the name {name!r:.100}, which is that of an attribute of torchmetrics.MetricCollection. "
                "Use another name."
            )
        if not isinstance(each, Metric) and set(_spec(each)) - {"class_path", "init_args"}:
            raise ConfigError(f"metrics.{name} is {each!r:.200}. {_HOW}")
        kind = type(each) if isinstance(each, Metric) else _located(_spec(each).get("class_path"))
        if not (isinstance(kind, type) and issubclass(kind, Metric)):
            raise ConfigError(f"metrics.{name} is {each!r:.200}, which is not a metric that can be imported. {_HOW}")
        classes[name] = kind
    return classes


def make_metrics(given: Mapping[str, Any], num_classes: int, taken: Sequence[str]) -> dict[str, Metric]:
    """Make metrics, and try each of them on made-up probabilities.

    Args:
        given: The metrics; see ``check_metrics``.
        num_classes: Number of classes. Metrics that take an argument ``num_classes`` get it where it is not given; an
            argument ``task`` becomes ``multiclass`` in the same way.
        taken: Names of the metrics that the task has anyway.

    Returns:
        New metrics by name, which receive probabilities ``(batch, classes)`` and labels ``(batch,)``.

    Raises:
        ConfigError: There is no such metric, it refuses its arguments, or it does not compute one number.
    """
    made = {}
    for name, kind in check_metrics(given, taken).items():
        each = given[name]
        if isinstance(each, Metric):
            made[name] = each.clone()
        else:
            arguments = dict(_spec(each).get("init_args") or {})
            parameters = inspect.signature(kind).parameters
            known = {"num_classes": num_classes, "task": "multiclass"}
            # the parser adds the defaults of all arguments, and null for those without one
            filled = {k: v for k, v in known.items() if k in parameters and arguments.get(k) is None}
            try:
                made[name] = kind(**arguments | filled)
            except Exception as error:  # a constructor may raise anything
                said = f"{type(error).__name__}: {' '.join(str(error).split()):.500}"
                raise ConfigError(f"metrics.{name}, {kind.__name__}, refuses {arguments!r:.200}: {said}") from None
        _try(name, made[name], num_classes)
    return made


def _spec(each: Any) -> Mapping[str, Any]:
    """A metric of a configuration as a dictionary; what is neither that nor a class path has no valid key."""
    if isinstance(each, Namespace):  # what the parser makes of a dictionary with a class_path
        each = each.as_dict()
    return each if isinstance(each, Mapping) else {"class_path" if isinstance(each, str) else "": each}


def _located(path: Any) -> Any:
    """What a dotted path names; None if it cannot be imported."""
    try:
        return locate(path) if isinstance(path, str) else None
    except ErrorDuringImport:
        return None


def _try(name: str, metric: Metric, num_classes: int) -> None:
    """Refuse a metric that does not compute one number from probabilities and labels."""
    labels = torch.arange(num_classes, device="cpu")
    probabilities = torch.eye(num_classes, device="cpu").add(0.5).div(1 + 0.5 * num_classes)
    trial = metric.clone().cpu()
    trial.reset()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial.update(probabilities, labels)
            value = trial.compute()
    except Exception as error:  # a metric may raise anything
        said = f"{type(error).__name__}: {' '.join(str(error).split()):.500}"
        raise ConfigError(
            f"metrics.{name}, {type(metric).__name__}, cannot be computed from probabilities "
            f"{tuple(probabilities.shape)} and labels {tuple(labels.shape)} ({said}). Use a metric of classification "
            "for these classes."
        ) from None
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ConfigError(
            f"metrics.{name}, {type(metric).__name__}, computes {shape}; one number is logged. Average over the "
            "classes, such as by init_args: {average: macro}."
        )
