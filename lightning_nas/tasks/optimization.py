"""Optimizers and learning rate schedules of tasks: wrong arguments are refused before the first step."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from lightning_nas.errors import ConfigError
from lightning_nas.tasks.course import steps_per_epoch

REHEARSED = 10_000
"""Largest number of epochs of a schedule that are tried out, which takes a tenth of a second."""


def build_optimizer(make: Callable[[Any], Optimizer], parameters: Any, name: str = "optimizer") -> Optimizer:
    """Make an optimizer.

    Args:
        make: Makes it from parameters.
        parameters: Parameters, or groups of them.
        name: Name of the task's argument, for the message.

    Returns:
        The optimizer.

    Raises:
        ConfigError: It refuses its arguments, such as a negative learning rate, or one of them is not finite.
    """
    optimizer: Optimizer = _called(make, parameters, f"model.{name}")
    for group in optimizer.param_groups:
        for key, value in group.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"model.{name} has {key} {value}; it must be a finite number.")
    return optimizer


def build_schedule(
    make: LRSchedulerCallable,
    optimizer: Optimizer,
    epochs: int | None,
    name: str = "scheduler",
    interval: str = "epoch",
) -> dict[str, Any]:
    """Make a schedule of the learning rate, as Lightning takes it from ``configure_optimizers``.

    ``OneCycleLR`` and ``CyclicLR`` step after every batch, as their documentation asks for, unless the length of a
    ``OneCycleLR`` is the number of epochs. ``ReduceLROnPlateau`` steps after every epoch.

    Args:
        make: Makes the scheduler of an optimizer.
        optimizer: The optimizer.
        epochs: Number of epochs of the training; None or -1 where there is no limit.
        name: Name of the task's argument, for the message.
        interval: When other schedulers step: after every ``epoch`` or ``step``.

    Returns:
        The scheduler, its ``interval`` and what it monitors, if anything.

    Raises:
        ConfigError: It refuses its arguments, fails on the way, or needs a metric and names none.
    """
    place = f"model.{name}"
    groups = [{**group, "params": [nn.Parameter(torch.zeros(1))]} for group in optimizer.param_groups]
    stand_in = torch.optim.SGD(groups, lr=0.1)  # with the same rates and options
    scheduler: Any = _called(make, optimizer, place)
    if isinstance(scheduler, ReduceLROnPlateau):
        monitor = getattr(scheduler, "monitor", None)
        if monitor is None:
            raise ConfigError(
                f"{place} is {type(scheduler).__module__}.ReduceLROnPlateau, which does not know its metric. Use "
                "class_path lightning.pytorch.cli.ReduceLROnPlateau with monitor in its init_args, such as train/loss."
            )
        return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}
    if isinstance(scheduler, OneCycleLR | CyclicLR):
        by_epochs = isinstance(scheduler, OneCycleLR) and scheduler.total_steps == epochs
        return {"scheduler": scheduler, "interval": "epoch" if by_epochs and interval == "epoch" else "step"}
    if interval == "epoch":
        _rehearse(_called(make, stand_in, place), min(epochs or 0, REHEARSED), place)
    return {"scheduler": scheduler, "interval": interval}


def _called(make: Callable[[Any], Any], argument: Any, place: str) -> Any:
    """What a callable of the configuration makes; what it raises is said as an error of the configuration."""
    try:
        return make(argument)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{place} cannot be made: {type(error).__name__}: {error}. Change its arguments.") from error


def _rehearse(scheduler: Any, epochs: int, place: str) -> None:
    """Go through a schedule before the training does."""
    scheduler.optimizer.step()  # of parameters without gradients; it comes before the schedule's
    for epoch in range(1, epochs + 1):
        try:
            scheduler.step()
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{place} fails after epoch {epoch} of {epochs}: {type(error).__name__}: {error}. Change its arguments."
            ) from error
        rates = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
        if not all(0 <= rate < math.inf for rate in rates):
            raise ConfigError(
                f"{place} makes the learning rate {min(rates)} after epoch {epoch} of {epochs}; it must be finite and "
                "at least 0. Change its arguments."
            )


def check_cycle(scheduler: Any, trainer: Trainer, steps: int | None) -> None:
    """Refuse a ``OneCycleLR`` that is shorter or longer than the training.

    Args:
        scheduler: Any scheduler that steps after every batch.
        trainer: Knows its batches.
        steps: Number of steps of the training; None without a limit.

    Raises:
        ConfigError: It has another length.
    """
    if not isinstance(scheduler, OneCycleLR):
        return
    if steps is None:
        raise ConfigError(
            f"OneCycleLR has {scheduler.total_steps} total_steps, but the training has no limit. Set trainer.max_steps "
            f"to {scheduler.total_steps}, or choose another schedule."
        )
    if scheduler.total_steps != steps:
        per_epoch = "any number" if math.isinf(trainer.num_training_batches) else steps_per_epoch(trainer)
        raise ConfigError(
            f"OneCycleLR has {scheduler.total_steps} total_steps, but the training takes {steps} steps, {per_epoch} "
            f"per epoch. Set total_steps to {steps}, or to the number of epochs for one step per epoch."
        )


def configure(
    parameters: Iterable[Any],
    make_optimizer: OptimizerCallable,
    make_scheduler: LRSchedulerCallable | None,
    trainer: Trainer,
    interval: str = "epoch",
) -> Any:
    """What ``configure_optimizers`` of a task with one optimizer returns.

    Args:
        parameters: Parameters, or groups of them.
        make_optimizer: Makes the optimizer.
        make_scheduler: Makes the schedule of its learning rate; None for a constant rate.
        trainer: Knows the number of epochs.
        interval: When the schedule steps; see ``build_schedule``.

    Raises:
        ConfigError: An argument of the optimizer or of the scheduler is wrong.
    """
    optimizer = build_optimizer(make_optimizer, parameters)
    if make_scheduler is None:
        return optimizer
    schedule = build_schedule(make_scheduler, optimizer, trainer.max_epochs, interval=interval)
    return {"optimizer": optimizer, "lr_scheduler": schedule}


def configure_several(
    parameters: Mapping[str, Any],
    make_optimizers: Sequence[OptimizerCallable],
    make_schedulers: Sequence[LRSchedulerCallable | None],
    trainer: Trainer | None,
) -> tuple[list[Optimizer], list[dict[str, Any]]]:
    """Make the optimizers and the schedules of a task that steps them itself.

    Args:
        parameters: Parameters of every optimizer, by the prefix of its arguments: ``weight`` for ``weight_optimizer``
            and ``weight_scheduler``.
        make_optimizers: Make the optimizers, in the same order.
        make_schedulers: Make their schedules; None for a constant rate.
        trainer: Knows the number of epochs; None where the task has none.

    Returns:
        The optimizers, and the schedules of those that have one.

    Raises:
        ConfigError: An argument of an optimizer or of a scheduler is wrong.
    """
    epochs = None if trainer is None else trainer.max_epochs
    made = zip(parameters.items(), make_optimizers, strict=True)
    optimizers = [build_optimizer(make, each, f"{name}_optimizer") for (name, each), make in made]
    schedules = [
        build_schedule(make, optimizer, epochs, f"{name}_scheduler")
        for name, make, optimizer in zip(parameters, make_schedulers, optimizers, strict=True)
        if make is not None
    ]
    return optimizers, schedules


def step_schedules(schedules: Iterable[Mapping[str, Any]], interval: str, metrics: Mapping[str, Any]) -> None:
    """Step the schedules of a task that steps its own optimizers.

    Args:
        schedules: Schedules from ``build_schedule``.
        interval: What is over: an ``epoch`` or a ``step``.
        metrics: Metrics by name, for schedules that monitor one.
    """
    for schedule in schedules:
        if schedule["interval"] == interval:
            monitored = [metrics[schedule["monitor"]]] if "monitor" in schedule else []
            schedule["scheduler"].step(*monitored)
