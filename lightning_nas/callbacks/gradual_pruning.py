"""GOLD-NAS: operations that count for little leave the search for good, a few an epoch."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_nas.callbacks.health import check_images, fixed_images, worth
from lightning_nas.differentiable.regularization.expected_cost import ExpectedCost
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_json
from lightning_nas.metrics.cost import parameters
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import output_folder

Place = tuple[str, int, int]
"""Cell type, edge and operation, as indices into the alphas."""


class GradualPruning(Callback):
    """Removes operations whose factor has fallen below a threshold, at the end of every epoch after the warm-up.

    What is removed leaves the supernet, the optimizer and the memory (``BilevelTask.restrict``); nothing is removed
    that the space or the discretizer cannot do without, so that every node keeps its inputs. The weight of the task's
    ``ExpectedCost`` is multiplied by ``growth`` after an epoch in which fewer than ``least`` operations went, divided
    by it after any other, and stays as it is once nothing more can go. Every removal leaves a smaller network, a point
    between cost and accuracy: ``series.json``, beside the other artifacts, has them all, with the parameters that are
    left, loss and accuracy of the supernet on fixed images of the search half, which a one-level search trains on, too,
    by batch statistics, and the architecture that the discretizer would read.

    A reconstruction. In the paper every cell has factors of its own and any set of operations that survives is a
    network; here the cells of a type share theirs, the series says what the supernet is worth with them, and the
    discretizer reads an architecture of the space. How the weight moves is ours. One process only.

    References:
        1. Bi, Xie, Chen, Wei, Tian: GOLD-NAS: Gradual, One-Level, Differentiable, 2020, https://arxiv.org/abs/2007.03331

    Args:
        threshold: Factor below which an operation may go, above 0 (the paper: about 0.05).
        least: Operations an epoch that are enough, at least 1.
        most: Operations an epoch that may go, at least ``least``.
        growth: What the weight is multiplied or divided by, at least 1.
        until: Operations left, over all cell types, at which the search ends, not fewer than can be left; it ends with
            its epochs if null.
        images: Of the search half that points are measured on; 0 does not measure them.
        seed: Of the choice of these images.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        threshold: float = 0.05,
        least: int = 1,
        most: int = 8,
        growth: float = 1.5,
        until: int | None = None,
        images: int = 256,
        seed: int = 0,
    ) -> None:
        if not (threshold > 0 and 1 <= least <= most and growth >= 1 and images >= 0 and (until is None or until >= 1)):
            raise ConfigError(
                f"threshold is {threshold}, least {least}, most {most}, growth {growth}, until {until}, images "
                f"{images}; expected are a threshold above 0, 1 <= least <= most, a growth from 1 on, until null or "
                "from 1 on, and images from 0 on."
            )
        self.threshold = threshold
        self.least = least
        self.most = most
        self.growth = growth
        self.until = until
        self.images = images
        self.seed = seed
        self.series: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a search that cannot be pruned.

        Raises:
            ConfigError: Of the task, its space, its regularizers, its data or the processes.
        """
        if not isinstance(pl_module, BilevelTask) or len(_penalties(pl_module)) != 1:
            found = [type(each).__name__ for each in getattr(pl_module, "regularizers", [])]
            raise ConfigError(
                f"GradualPruning prunes a BilevelTask with one ExpectedCost among its regularizers; the task is "
                f"{type(pl_module).__name__} with {found}. Add ExpectedCost, or leave GradualPruning out."
            )
        if trainer.world_size > 1:
            raise ConfigError(
                f"Operations cannot be taken away from {trainer.world_size} processes that train together. Use one "
                "device."
            )
        if self.images:
            check_images(self, trainer)
        if "none" in pl_module.space.operations:
            raise ConfigError(
                "The space has the operation none, whose factor moves nothing, so that it says nothing about what can "
                "go. Leave none out of the space's operations."
            )
        left = len(_places(pl_module))
        least = left - len(_removable(pl_module, _places(pl_module)))
        # one that goes on may have reached it
        if self.until is not None and not self.series and not least <= self.until < left:
            raise ConfigError(
                f"until is {self.until}, but the space has {left} operations on all edges, of which {least} cannot go. "
                f"Set it from {least} to {left - 1}."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a search that goes on from where it had ended."""
        self._end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, note what is left, and move the weight of the cost."""
        task: Any = pl_module
        if trainer.current_epoch - task.began < task.warmup_epochs:
            return
        (penalty,) = _penalties(task)
        removed = self._weak(task)
        if removed:
            task.restrict(_without(task.space, removed))
            self.series.append(self._point(trainer, task))
            self._write(trainer, task)
        if removed or _removable(task, _places(task), 1):
            penalty.weight *= self.growth if len(removed) < self.least else 1 / self.growth
        left = len(_places(task))
        task.log_dict({"pruning/operations": float(left), "pruning/weight": penalty.weight})
        self._end(trainer, task)

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        task: Any = pl_module
        if self.until is not None and len(_places(task)) <= self.until:
            trainer.should_stop = True

    def _weak(self, task: BilevelTask) -> list[Place]:
        """What is to go now, the weakest first."""
        with torch.no_grad():
            factors = {cell: mixture.operations.cpu() for cell, mixture in task.mixtures().items()}
        found = sorted((float(factors[cell][edge, o]), (cell, edge, o)) for cell, edge, o in _places(task))
        most = self.most
        if self.until is not None:
            most = min(most, len(_places(task)) - self.until)
        return _removable(task, [place for factor, place in found if factor < self.threshold], most)

    def _point(self, trainer: Trainer, task: BilevelTask) -> dict[str, Any]:
        found = task.discretize()
        point = {
            "epoch": trainer.current_epoch,
            "operations": len(_places(task)),
            "parameters": parameters(task.supernet),
            "text": task.space.text(found),
            "choices": list(found.choices),
        }
        if self.images:
            point["loss"], point["accuracy"] = worth(task, None, *fixed_images(task, self.images, self.seed))
        return point

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``series.json``, also where nothing was pruned."""
        task: Any = pl_module
        task.outputs["series"] = [self._write(trainer, task)]

    def _write(self, trainer: Trainer, task: BilevelTask) -> Path:
        content = {"task": type(task).__name__, "seed": task.seed, "series": self.series}
        return write_json(output_folder(trainer, task.output_dir) / "series.json", content)

    def state_dict(self) -> dict[str, Any]:
        """The series so far; the weight is the regularizer's."""
        return {"series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.series = list(state_dict["series"])


def _penalties(task: BilevelTask) -> list[ExpectedCost]:
    return [each for each in task.regularizers if isinstance(each, ExpectedCost)]


def _places(task: BilevelTask) -> list[Place]:
    """All that is left."""
    return [(cell, *at) for cell, mask in task.space.allowed.items() for at in mask.nonzero().tolist()]


def _without(space: DifferentiableSpace, places: Iterable[Place]) -> dict[str, Tensor]:
    allowed = {cell: mask.clone() for cell, mask in space.allowed.items()}
    for cell, edge, operation in places:
        allowed[cell][edge, operation] = False
    return allowed


def _removable(task: BilevelTask, places: Iterable[Place], most: int | None = None) -> list[Place]:
    """Those that can go together: each, in this order, that space and discretizer can do without."""
    found: list[Place] = []
    for place in places:
        if most is not None and len(found) >= most:
            break
        if _legal(task, _without(task.space, [*found, place])):
            found.append(place)
    return found


def _legal(task: BilevelTask, allowed: Mapping[str, Tensor]) -> bool:
    try:
        task.discretizer.check(task.space.restrict(allowed))
    except ConfigError:
        return False
    return True
