"""P-DARTS: a search in phases, each with a deeper supernet and fewer operations."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts

from lightning_nas.checks import at_least, within
from lightning_nas.data.splits import derived_seed
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.base import check_alone
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.course import share, steps_per_epoch


class PDARTSPhases(Callback):
    """Divides a search in the DARTS space into phases of equally many epochs.

    At the end of a phase every edge keeps the operations with the largest factors; ``none`` counts as one of them. The
    search starts again with these operations in a deeper supernet, with new weights, alphas, optimizers and schedulers,
    and with the task's ``warmup_epochs``. A cosine schedule must end with the phase: on the command line, the ``T_max``
    of ``CosineAnnealingLR`` is the number of epochs of a phase.

    Skip connections are dropped out. The probability follows the fraction p of the phase that is over, 0 in its first
    step and 1 in its last. It is ``rate * (1 - p)`` during the warm-up, and ``rate * exp(-decay * (p - w))`` after it,
    where w is the fraction at the end of the warm-up. The phase is read from the depth of the supernet, so that the
    callback needs no state; for relaxations and regularizers, all phases are one search. ``SkipCap`` limits the skip
    connections of the found cell.

    Departures from the paper: the rates change in every step instead of every epoch, and their course does not depend
    on the length of a phase; the same values of a state are dropped on all edges that leave it, and the gradients of
    the alphas are not clipped. One process only.

    References:
        1. Chen, Xie, Wu, Tian: Progressive Differentiable Architecture Search: Bridging the Depth Gap between Search
           and Evaluation, ICCV 2019, https://arxiv.org/abs/1904.12760

    Args:
        cells: Number of cells of the supernet in every phase, increasing; the space of the task has the first one.
        kept: Number of operations that an edge keeps for every phase after the first, decreasing (the paper: 5 and 3
            of 8).
        skip_dropout: Dropout rate of skip connections in every phase, in [0, 1) (the paper on CIFAR-10: 0, 0.4, 0.7).
        decay: How fast the rate falls after the warm-up, at least 0: it is divided by e ``decay`` times in a whole
            phase (the paper: 0.2 times per epoch, of which a phase has 25).

    Raises:
        ConfigError: The lists do not have matching lengths or are not in order, or a number is out of its range.

    Example:
        ```yaml
        trainer:
          max_epochs: 75
          callbacks: [{class_path: PDARTSPhases, init_args: {cells: [5, 11, 17], kept: [5, 3]}}]
        ```
    """

    changes_supernet = True

    def __init__(
        self,
        cells: Sequence[int] = (5, 11, 17),
        *,
        kept: Sequence[int] = (5, 3),
        skip_dropout: Sequence[float] = (0.0, 0.4, 0.7),
        decay: float = 5.0,
    ) -> None:
        at_least(0, decay=decay)
        _check_order("cells", cells, increasing=True)
        _check_order("kept", kept, increasing=False)
        if len(kept) != len(cells) - 1:
            raise ConfigError(f"kept has {len(kept)} values; it must have one less than cells, {len(cells) - 1}.")
        if len(skip_dropout) != len(cells):
            raise ConfigError(f"skip_dropout has {len(skip_dropout)} values; it must have one per phase, {len(cells)}.")
        for rate in skip_dropout:
            within("[0, 1)", skip_dropout=rate)
        self.cells = tuple(cells)
        self.kept = tuple(kept)
        self.skip_dropout = tuple(skip_dropout)
        self.decay = decay

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a search that cannot be divided.

        Raises:
            ConfigError: The task, its space or components, its schedules, the number of epochs or of processes does not
                allow it.
        """
        task = _search(pl_module)
        epochs, phases = trainer.max_epochs or -1, len(self.cells)
        if epochs < 1 or epochs % phases or epochs // phases <= task.warmup_epochs:
            raise ConfigError(
                f"max_epochs is {trainer.max_epochs} for {phases} phases with {task.warmup_epochs} epochs of warm-up "
                "each; it must be a multiple of the number of phases, and a phase must be longer than its warm-up."
            )
        _check_schedules(task, epochs // phases)
        model, runner = task.model, task.model.runner
        cells = model.space.arguments()["cells"]
        if cells not in self.cells:
            raise ConfigError(
                f"The space has {cells} cells, the phases have {list(self.cells)}. Give the space as many cells as the "
                f"first phase, {self.cells[0]}."
            )
        names, operations = model.space.operations, model.space.candidates
        skips = [operation.name for operation in operations if operation.is_skip]
        limited = [
            *(each.name for each in operations if each.is_none),
            *(skips if model.discretizer.limits_skips else []),
        ]
        fewest = 1 + len(limited)
        if self.kept and not (fewest <= self.kept[-1] and self.kept[0] < len(names)):
            raise ConfigError(
                f"kept is {list(self.kept)} of {len(names)} operations; it must start below their number and end at "
                f"{fewest} or more: with nothing but {' and '.join(limited) or 'none'}, a node could have too few "
                "inputs. Raise kept, or leave operations out of the space."
            )
        check_alone(trainer)
        twice = runner.checkpoint_cells or runner.compile is not False or task.hypergradient.needs_sgd
        if any(self.skip_dropout) and twice:
            raise ConfigError(
                f"skip_dropout draws anew in every pass: checkpoint_cells: {runner.checkpoint_cells}, compile: "
                f"{runner.compile} and {type(task.hypergradient).__name__} would need the same draw twice, or a "
                "program per epoch. Use checkpoint_cells: false, compile: false and FirstOrder, or rates of 0."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse data without a known number of batches.

        Raises:
            ConfigError: The length of a phase is unknown.
        """
        if math.isinf(trainer.num_training_batches):
            raise ConfigError(
                "PDARTSPhases must know the number of steps of a phase, but the data do not have a known number of "
                "batches. Set trainer.limit_train_batches to it."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the next phase if it is time.

        Raises:
            ConfigError: The supernet belongs to another phase.
        """
        task, phase = _search(pl_module), trainer.current_epoch // self._epochs(trainer)
        before = self._phase(task.model)
        if phase not in (before, before + 1):
            raise ConfigError(
                f"Epoch {trainer.current_epoch} belongs to the phase with {self.cells[phase]} cells, but the supernet "
                f"has {self.cells[before]}. Give the space {self.cells[0]} cells, and keep the cells and max_epochs of "
                "the run that wrote the checkpoint."
            )
        if phase == before + 1:
            seed = derived_seed(task.seed, "rebuild", task.current_epoch)
            task.model.rebuild(self._next(task.model, phase), seed)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the dropout rate of the step."""
        task, of_epoch = _search(pl_module), steps_per_epoch(trainer)
        phase, length = self._phase(task.model), self._epochs(trainer) * of_epoch
        assert task.total_steps is not None, "on_train_start checks it"
        steps = min(length, task.total_steps - phase * length)  # max_steps may end the last phase earlier
        warm_up = share(task.warmup_epochs * of_epoch, steps) if task.warmup_epochs else 0.0
        rate = self.dropout(phase, share(task.current_step - phase * length, steps), warm_up, warm=task.warming_up)
        task.model.supernet.set_skip_dropout(rate)

    def dropout(self, phase: int, progress: float, warm_up: float = 0.0, *, warm: bool = False) -> float:
        """Dropout rate of skip connections.

        Args:
            phase: Index of the phase.
            progress: Fraction of the phase that is over: 0 in its first step, 1 in its last.
            warm_up: That fraction at the end of the warm-up.
            warm: Whether the phase is in its warm-up.
        """
        part = 1 - progress if warm else math.exp(-self.decay * (progress - warm_up))
        return self.skip_dropout[phase] * part

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch dropout off for the measurements at the end."""
        _search(pl_module).model.supernet.set_skip_dropout(0.0)

    def _epochs(self, trainer: Trainer) -> int:
        """Number of epochs of a phase."""
        assert trainer.max_epochs is not None, "on_fit_start checks it"
        return trainer.max_epochs // len(self.cells)

    def _phase(self, model: SearchModel) -> int:
        return self.cells.index(model.space.arguments()["cells"])

    def _next(self, model: SearchModel, phase: int) -> DARTSSpace:
        """The space of a phase: every edge keeps the operations with the largest factors."""
        names, allowed = model.space.operations, {}
        with torch.no_grad():
            mixtures = model.mixtures()
        for cell, mixture in mixtures.items():
            # operations that are not allowed have the factor 0, but so may allowed ones
            factors = mixture.operations.cpu().masked_fill(~model.space.allowed[cell], -1.0)
            kept = factors.argsort(dim=1, descending=True, stable=True)[:, : self.kept[phase - 1]].sort(dim=1).values
            allowed[cell] = [
                [names[column] for column in row if on[column]]
                for row, on in zip(kept.tolist(), model.space.allowed[cell].tolist(), strict=True)
            ]
        return DARTSSpace(**{**model.space.arguments(), "cells": self.cells[phase], "allowed": allowed})


def _check_order(name: str, values: Sequence[int], *, increasing: bool) -> None:
    pairs = list(zip(values[:-1], values[1:], strict=True))
    ordered = all(a < b if increasing else a > b for a, b in pairs)
    if not ordered or min(values, default=1) < 1 or (increasing and not values):
        direction = "increasing" if increasing else "decreasing"
        raise ConfigError(f"{name} is {list(values)}; it must be a list of {direction} positive integers.")


def _search(module: LightningModule) -> BilevelTask:
    if not isinstance(module, BilevelTask) or not isinstance(module.model.space, DARTSSpace):
        what = f" in {type(module.model.space).__name__}" if isinstance(module, BilevelTask) else ""
        raise ConfigError(
            f"PDARTSPhases divides a BilevelTask in a DARTSSpace; the task is {type(module).__name__}{what}. Use "
            "these, or leave PDARTSPhases out."
        )
    return module


def _check_schedules(task: BilevelTask, epochs: int) -> None:
    """Refuse cosine schedules that do not end with a phase."""
    for schedule in task.schedules:
        scheduler = schedule["scheduler"]
        name = {CosineAnnealingLR: "T_max", CosineAnnealingWarmRestarts: "T_0"}.get(type(scheduler))
        length = None if name is None else getattr(scheduler, name)
        if length not in (None, epochs):
            raise ConfigError(
                f"{type(scheduler).__name__} has {name} {length}, but every phase has {epochs} epochs, and new "
                f"schedulers. Set {name} to {epochs}; the command line sets the T_max of CosineAnnealingLR itself."
            )
