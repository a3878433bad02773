"""P-DARTS: a search in phases, each with a deeper supernet of fewer operations."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.differentiable.discretization.skip_cap import SkipCap
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.tasks.bilevel import BilevelTask


class PDARTSPhases(Callback):
    """Divides a differentiable search in the DARTS space into phases of equally many epochs.

    At the end of a phase, every edge keeps the operations with the largest factors, ``none`` among them if it is one;
    the search begins anew with them in a deeper supernet: weights, alphas, optimizers, schedulers and the task's
    ``warmup_epochs``. A scheduler should end with the phase: ``CosineAnnealingWarmRestarts`` with its epochs as
    ``T_0``.

    In the epochs e = 0, 1, ... of a phase of E epochs of which the first W are the warm-up, what skip connections pass
    is dropped with the probability ``rate * (E - e - 1) / E`` during, and ``rate * exp(-decay * (e - W))`` after the
    warm-up. The phase is read from the depth of the supernet, so that this keeps no state of its own; regularizers
    count the epochs of all phases together. ``SkipCap`` is the limit of skip connections at the end.

    Departures: what is dropped of a state is the same for all edges that leave it, and alphas' gradients are not
    clipped. One process only.

    References:
        1. Chen, Xie, Wu, Tian: Progressive Differentiable Architecture Search: Bridging the Depth Gap between Search
           and Evaluation, ICCV 2019, https://arxiv.org/abs/1904.12760

    Args:
        cells: Cells of the supernet in every phase, growing; the space of the task has the first number.
        kept: Operations that an edge keeps for the second and every later phase, falling (the paper: 5, 3 of 8).
        skip_dropout: The rate of every phase, from 0 to below 1 (the paper on CIFAR-10: 0, 0.4, 0.7).
        decay: See above.

    Raises:
        ConfigError: The lists are of other lengths, or not in order.
    """

    def __init__(
        self,
        cells: Sequence[int] = (5, 11, 17),
        kept: Sequence[int] = (5, 3),
        skip_dropout: Sequence[float] = (0.0, 0.4, 0.7),
        decay: float = 0.2,
    ) -> None:
        lengths = len(kept) == len(cells) - 1 and len(skip_dropout) == len(cells)
        grows = all(a < b for a, b in zip(cells[:-1], cells[1:], strict=True))
        falls = all(a > b for a, b in zip(kept[:-1], kept[1:], strict=True)) and min(kept, default=1) > 0
        if not (cells and lengths and grows and falls and all(0 <= rate < 1 for rate in skip_dropout)):
            raise ConfigError(
                f"cells is {list(cells)}, kept {list(kept)}, skip_dropout {list(skip_dropout)}; expected are growing "
                "cells, one falling positive number less of kept, and as many rates from 0 to below 1 as cells."
            )
        self.cells = tuple(cells)
        self.kept = tuple(kept)
        self.skip_dropout = tuple(skip_dropout)
        self.decay = decay

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a search that cannot be divided.

        Raises:
            ConfigError: Of the task, its space, its components, the epochs or the processes.
        """
        task = _search(pl_module)
        epochs, phases = trainer.max_epochs or -1, len(self.cells)
        if epochs < 1 or epochs % phases or epochs // phases <= task.warmup_epochs:
            raise ConfigError(
                f"max_epochs is {trainer.max_epochs} for {phases} phases with {task.warmup_epochs} epochs of warm-up "
                "each; it must be a multiple of the phases, and a phase longer than its warm-up."
            )
        model, runner = task.model, task.model.runner
        cells = model.space.arguments()["cells"]
        if cells not in self.cells:
            raise ConfigError(
                f"The space has {cells} cells, the phases have {list(self.cells)}. Give the space those of the first."
            )
        names, operations = model.space.operations, model.space.candidates
        capped = any(operation.is_skip for operation in operations) and isinstance(model.discretizer, SkipCap)
        fewest = 1 + any(operation.is_none for operation in operations) + capped
        if self.kept and not (fewest <= self.kept[-1] and self.kept[0] < len(names)):
            raise ConfigError(
                f"kept is {list(self.kept)} of {len(names)} operations; it must begin below their number, and end at "
                f"{fewest} or more: with none{' and skip_connect' if capped else ''} alone, a node could have too few "
                "inputs. Raise kept, or leave operations out of the space."
            )
        if trainer.world_size > 1:
            raise ConfigError(
                f"Phases begin with new supernets, which {trainer.world_size} processes cannot share. Use one device."
            )
        twice = runner.checkpoint_cells or runner.compile is not False or task.hypergradient.needs_sgd
        if any(self.skip_dropout) and twice:
            raise ConfigError(
                f"skip_dropout draws anew in every pass: checkpoint_cells: {runner.checkpoint_cells}, compile: "
                f"{runner.compile} and {type(task.hypergradient).__name__} would need the same draw twice, or a "
                "program per epoch. Use checkpoint_cells: false, compile: false and FirstOrder, or rates of 0."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a phase where it is its turn.

        Raises:
            ConfigError: The supernet is of another phase.
        """
        task, phase = _search(pl_module), trainer.current_epoch // self._epochs(trainer)
        before = self._phase(task.model)
        if phase not in (before, before + 1):
            raise ConfigError(
                f"Epoch {trainer.current_epoch} is of the phase with {self.cells[phase]} cells, but the supernet has "
                f"{self.cells[before]}. Give the space {self.cells[0]} cells, and keep cells and max_epochs of the "
                "run that the checkpoint is of."
            )
        if phase == before + 1:
            task.rebuild(self._next(task.model, phase))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the dropout of the epoch; also where a run is resumed in the middle of it."""
        task, length = _search(pl_module), self._epochs(trainer)
        epoch, warmup = trainer.current_epoch % length, task.warmup_epochs
        share = (length - epoch - 1) / length if epoch < warmup else math.exp(-self.decay * (epoch - warmup))
        _drop_skips(task.model, self.skip_dropout[self._phase(task.model)] * share)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is measured at the end is measured without dropout."""
        _drop_skips(_search(pl_module).model, 0.0)

    def _epochs(self, trainer: Trainer) -> int:
        """Epochs of a phase."""
        assert trainer.max_epochs is not None, "on_fit_start checks it"
        return trainer.max_epochs // len(self.cells)

    def _phase(self, model: SearchModel) -> int:
        return self.cells.index(model.space.arguments()["cells"])

    def _next(self, model: SearchModel, phase: int) -> DARTSSpace:
        """The space of a phase: of every edge the operations with the largest factors."""
        names, allowed = model.space.operations, {}
        with torch.no_grad():
            mixtures = model.mixtures()
        for cell, mixture in mixtures.items():
            # what is not allowed has the factor 0, and so could have what is
            factors = mixture.operations.cpu().masked_fill(~model.space.allowed[cell], -1.0)
            kept = factors.argsort(dim=1, descending=True, stable=True)[:, : self.kept[phase - 1]].sort(dim=1).values
            allowed[cell] = [
                [names[column] for column in row if on[column]]
                for row, on in zip(kept.tolist(), model.space.allowed[cell].tolist(), strict=True)
            ]
        return DARTSSpace(**{**model.space.arguments(), "cells": self.cells[phase], "allowed": allowed})


def _search(module: LightningModule) -> BilevelTask:
    if not isinstance(module, BilevelTask) or not isinstance(module.model.space, DARTSSpace):
        what = f" in {type(module.model.space).__name__}" if isinstance(module, BilevelTask) else ""
        raise ConfigError(
            f"PDARTSPhases divides a BilevelTask in the DARTSSpace; the task is {type(module).__name__}{what}. "
            "Use these, or leave it out."
        )
    return module


def _drop_skips(model: SearchModel, rate: float) -> None:
    model.supernet.set_skip_dropout(rate)
