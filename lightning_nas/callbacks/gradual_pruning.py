"""GOLD-NAS: operations with a small share of their node are removed for good, a few at a time."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import isinf
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_nas.checks import at_least, greater_than
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.regularization.expected_cost import ExpectedCost
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_json
from lightning_nas.metrics.cost import parameters
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.tasks.base import check_alone
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import check_fixed_images, fixed_images, output_folder
from lightning_nas.tasks.course import is_due, steps_per_epoch

Place = tuple[str, int, int]
"""Cell type, and edge and operation as indices into the alphas."""


class GradualPruning(Callback):
    """Removes operations whose share of their node has become small, several times in the course of a search.

    The share of an operation is its factor by the sum of the factors of all operations on all edges into its node. All
    operations whose share is at most ``at_once`` are removed, and then, up to ``max_removed`` of them one after the
    other, those with the smallest shares below ``threshold``; shares are taken anew after every removal. What is
    removed leaves the supernet, the optimizer and the memory (``SearchModel.restrict``). Operations that the space or
    the discretizer cannot do without stay, so that every node keeps its inputs.

    When fewer than ``min_removed`` operations are removed, the step of the weight of the task's ``ExpectedCost`` is
    multiplied by ``growth``, and the weight is raised by the step. Otherwise the weight is divided by ``growth``, and
    the step is ``increment`` again. Once nothing more can be removed, both rest. By default this happens at the end of
    every epoch after the warm-up. With ``times`` it happens equally often in a search of any length, in equal distances
    that are counted in steps, so that a short search goes through the whole course too.

    Every removal leaves a smaller network, a point between cost and accuracy. ``series.json``, beside the other
    artifacts, has all of them: the number of parameters, loss and accuracy of the supernet on fixed images of the
    search half with batch statistics, and the architecture that the discretizer would read. A one-level search trains
    on these images too.

    Shares, thresholds and the course of the weight are those of the authors' code; the rest is a reconstruction. There,
    every cell has factors of its own, and any set of operations that survives is a network. Here the cells of a type
    share their factors, the accuracy in the series is that of the supernet with them, and the discretizer reads an
    architecture of the space. One process only.

    References:
        1. Bi, Xie, Chen, Wei, Tian: GOLD-NAS: Gradual, One-Level, Differentiable, 2020, https://arxiv.org/abs/2007.03331

    Args:
        threshold: Share below which an operation may be removed, greater than 0 (the authors' code: 0.05).
        at_once: Share up to which all operations are removed at once, from 0 to ``threshold`` (the authors' code:
            0.01).
        min_removed: Number of operations removed at a time that is enough, at least 1; null, the default, takes
            ``max_removed``, as the authors' code does.
        max_removed: Largest number of operations above ``at_once`` that are removed at a time, at least ``min_removed``
            (the authors' code: 4).
        growth: Factor of the weight's step, and divisor of the weight, at least 1 (the authors' code: 2).
        increment: First step of the weight, at least 0 (the authors' code: 1e-5).
        stop_at: Number of operations left, over all cell types, at which the search ends; null trains all epochs.
        images: Number of images of the search half that points are measured on; 0 does not measure them.
        seed: Seed of the choice of these images.
        times: How often operations are removed after the warm-up, at least 1; null, the default, removes some after
            every epoch.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        trainer:
          callbacks: [{class_path: GradualPruning, init_args: {threshold: 0.05, max_removed: 4, times: 50}}]
        ```
    """

    writes = ("series.json",)

    metrics_logged = ("pruning/operations", "pruning/weight")
    changes_supernet = True

    def __init__(
        self,
        threshold: float = 0.05,
        *,
        at_once: float = 0.01,
        min_removed: int | None = None,
        max_removed: int = 4,
        growth: float = 2.0,
        increment: float = 1e-5,
        stop_at: int | None = None,
        images: int = 256,
        seed: int = 0,
        times: int | None = None,
    ) -> None:
        greater_than(0, threshold=threshold)
        at_least(1, min_removed=min_removed, max_removed=max_removed, growth=growth, stop_at=stop_at, times=times)
        at_least(0, images=images, at_once=at_once, increment=increment)
        if min_removed is not None and max_removed < min_removed:
            raise ConfigError(f"max_removed is {max_removed}; it must be at least min_removed, {min_removed}.")
        if at_once > threshold:
            raise ConfigError(f"at_once is {at_once}; it must be at most threshold, {threshold}.")
        self.threshold = threshold
        self.at_once = at_once
        self.min_removed = max_removed if min_removed is None else min_removed
        self.max_removed = max_removed
        self.growth = growth
        self.increment = increment
        self.step = increment
        self.stop_at = stop_at
        self.images = images
        self.seed = seed
        self.times = times
        self.series: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a search that cannot be pruned.

        Raises:
            ConfigError: The task, its space, regularizers or data, or the number of processes does not allow it.
        """
        task = _search(pl_module)
        if len(_penalties(task)) != 1:
            found = [type(each).__name__ for each in task.regularizers]
            raise ConfigError(
                f"GradualPruning needs exactly one ExpectedCost among the regularizers; they are {found}. Add "
                "ExpectedCost, or leave GradualPruning out."
            )
        check_alone(trainer)
        if self.images:
            check_fixed_images("GradualPruning", trainer)
        model = task.model
        if any(operation.is_none for operation in model.space.candidates):
            raise ConfigError(
                "The space has the operation none, whose factor moves nothing, so that it does not tell what can be "
                "removed. Leave none out of the operations of the space."
            )
        left = len(_places(model))
        fewest = left - len(_removable(model, _places(model)))
        # a resumed search may have reached it already
        if self.stop_at is not None and not self.series and not fewest <= self.stop_at < left:
            raise ConfigError(
                f"stop_at is {self.stop_at}, but of the {left} operations on all edges of the space {fewest} cannot be "
                f"removed. Set it from {fewest} to {left - 1}."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a resumed search that had already reached its end.

        Raises:
            ConfigError: ``times`` is given, but the number of steps of the search is unknown.
        """
        if self.times is not None and (_search(pl_module).course_steps is None or isinf(trainer.num_training_batches)):
            raise ConfigError(
                f"times is {self.times}, but GradualPruning does not know the number of steps that it divides by that. "
                "Set trainer.max_epochs and, where the data have no known number of batches, "
                "trainer.limit_train_batches, or times to null."
            )
        self._end(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remove operations if it is time within the search."""
        task = _search(pl_module)
        if self._is_due(trainer, task, task.current_step):
            self._prune(trainer, task)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove operations if it is time at the end of an epoch, or of the search."""
        task = _search(pl_module)
        if task.warming_up:
            return
        at_end = task.current_step + 1 == task.course_steps and self._is_due(trainer, task, task.current_step + 1)
        if self.times is None or at_end:
            self._prune(trainer, task)
        (penalty,) = _penalties(task)
        task.log_dict({"pruning/operations": float(len(_places(task.model))), "pruning/weight": penalty.weight})

    def _is_due(self, trainer: Trainer, task: BilevelTask, step: int) -> bool:
        if self.times is None or task.course_steps is None:
            return False
        return is_due(self.times, step, task.course_steps, task.warmup_epochs * steps_per_epoch(trainer))

    def _prune(self, trainer: Trainer, task: BilevelTask) -> None:
        """Remove operations, write down what is left, and change the weight of the cost."""
        model = task.model
        (penalty,) = _penalties(task)
        removed = self._weak(model)
        if removed:
            model.restrict(_without(model.space, removed))
            self.series.append(self._point(trainer, task))
            self._write(trainer, task)
        if len(removed) >= self.min_removed:
            self.step = self.increment
            penalty.weight /= self.growth
        elif removed or _removable(model, _places(model), most=1):
            self.step *= self.growth
            penalty.weight += self.step
        self._end(trainer, task)

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stop_at is not None and len(_places(_search(pl_module).model)) <= self.stop_at:
            trainer.should_stop = True

    def _weak(self, model: SearchModel) -> list[Place]:
        """The operations that are removed now, in this order."""
        with torch.no_grad():
            factors = {cell: mixture.operations.clone() for cell, mixture in model.mixtures().items()}
        most = len(_places(model)) - (self.stop_at or 0)
        gone: list[Place] = []
        for _ in range(self.max_removed):
            for limit, count in ((self.at_once, most), (self.threshold, 1)):
                shares = _shares(model, factors, gone)
                weak = [place for place, share in shares.items() if share <= limit and share < self.threshold]
                for cell, edge, o in _removable(model, weak, gone, min(count, most - len(gone))):
                    gone.append((cell, edge, o))
                    factors[cell][edge, o] = 0.0
        return gone

    def _point(self, trainer: Trainer, task: BilevelTask) -> dict[str, Any]:
        model = task.model
        found = model.discretize()
        point = {
            "epoch": trainer.current_epoch,
            "operations": len(_places(model)),
            "parameters": parameters(model.supernet),
            "text": model.space.text(found),
            "choices": list(found.choices),
        }
        if self.images:
            batch = fixed_images(task, self.images, self.seed)
            point["loss"], point["accuracy"] = model.loss_and_accuracy(*batch)
        return point

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``series.json``, even if nothing was removed."""
        task = _search(pl_module)
        task.outputs["series"] = [self._write(trainer, task)]

    def _write(self, trainer: Trainer, task: BilevelTask) -> Path:
        content = {"task": type(task).__name__, "seed": task.seed, "series": self.series}
        return write_json(output_folder(trainer, task.output_dir) / "series.json", content)

    def state_dict(self) -> dict[str, Any]:
        """The series so far and the step of the weight; the regularizer keeps the weight itself."""
        return {"series": self.series, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.series, self.step = list(state_dict["series"]), state_dict["step"]


def _search(module: LightningModule) -> BilevelTask:
    if not isinstance(module, BilevelTask):
        raise ConfigError(
            f"GradualPruning prunes a BilevelTask; the task is {type(module).__name__}. Leave it out of "
            "trainer.callbacks."
        )
    return module


def _penalties(task: BilevelTask) -> list[ExpectedCost]:
    return [each for each in task.regularizers if isinstance(each, ExpectedCost)]


def _places(model: SearchModel) -> list[Place]:
    """All operations that are left."""
    return [(cell, *at) for cell, mask in model.space.allowed.items() for at in mask.nonzero().tolist()]


def _without(space: DifferentiableSpace, places: Iterable[Place]) -> dict[str, Tensor]:
    allowed = {cell: mask.clone() for cell, mask in space.allowed.items()}
    for cell, edge, operation in places:
        allowed[cell][edge, operation] = False
    return allowed


def _shares(model: SearchModel, factors: Mapping[str, Tensor], gone: Collection[Place]) -> dict[Place, float]:
    """The shares of the operations that are left in their nodes, the smallest first."""
    shares = {cell: each.clone() for cell, each in factors.items()}
    for each in shares.values():
        for node in model.space.nodes:
            each[node] /= each[node].sum()
    left = {(cell, edge, o): float(shares[cell][edge, o]) for cell, edge, o in _places(model)}
    return {place: left[place] for place in sorted(left, key=left.__getitem__) if place not in gone}


def _removable(
    model: SearchModel, places: Iterable[Place], gone: Sequence[Place] = (), most: int | None = None
) -> list[Place]:
    """The places that can be removed together: each, in this order, that space and discretizer can do without.

    Args:
        model: The model of the search.
        places: Candidates.
        gone: What is removed with them.
        most: The largest number of places; None takes all.
    """
    found: list[Place] = []
    for place in places:
        if most is not None and len(found) >= most:
            break
        if _legal(model, _without(model.space, [*gone, *found, place])):
            found.append(place)
    return found


def _legal(model: SearchModel, allowed: Mapping[str, Tensor]) -> bool:
    try:
        model.check_space(model.space.restrict(allowed))
    except ConfigError:
        return False
    return True
