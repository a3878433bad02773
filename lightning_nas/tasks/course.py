"""How far a training is, counted in optimizer steps."""

import math

from lightning.pytorch import Trainer


def total_steps(trainer: Trainer, max_steps: int, max_epochs: int | None = None) -> int | None:
    """Number of optimizer steps of a whole training; None where it has no limit but time, or is not known yet.

    Callbacks that end a training early are not known in advance, and neither is ``max_time``.

    Args:
        trainer: Knows the number of batches, from ``on_train_start`` on, and how many of them a step takes.
        max_steps: Largest number of steps; -1 without one.
        max_epochs: Number of epochs to count, if it is not that of the trainer.
    """
    epochs = trainer.max_epochs if max_epochs is None else max_epochs
    limits = [max_steps] if max_steps > 0 else []
    if epochs is not None and epochs > 0 and not math.isinf(trainer.num_training_batches):
        limits.append(epochs * steps_per_epoch(trainer))
    return min(limits, default=None)


def steps_per_epoch(trainer: Trainer) -> int:
    """Number of optimizer steps of an epoch.

    Args:
        trainer: Knows the number of batches, from ``on_train_start`` on; it must be finite.
    """
    return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def share(step: int, steps: int) -> float:
    """Fraction of a course that is over: exactly 0 in its first step and 1 in its last one, and never beyond.

    A course of a single step is at its end.

    Args:
        step: Index of the present step, counted from 0.
        steps: Number of steps.
    """
    return 1.0 if steps <= 1 else min(max(step, 0) / (steps - 1), 1.0)


def is_due(count: int, step: int, steps: int, first: int = 0) -> bool:
    """Whether one of several events that are spread evenly over a course comes before a step, or after the last one.

    The last event comes after the last step. With fewer steps than events, one comes before every step but the first.

    Args:
        count: Number of events.
        step: Index of the step, counted from 0; ``steps`` stands for the end.
        steps: Number of steps of the course.
        first: Step from which on the events are spread.
    """
    if not first < step <= steps:
        return False
    length = steps - first
    return count * (step - first) // length > count * (step - 1 - first) // length
