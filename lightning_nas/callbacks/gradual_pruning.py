"""GOLD-NAS: operations that count for little leave the search for good, a few an epoch."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_nas.artifacts import write_json
from lightning_nas.callbacks.health import check_images, fixed_images, worth
from lightning_nas.differentiable.regularization.expected_cost import ExpectedCost
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.cost import parameters
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import output_folder


class GradualPruning(Callback):
    """Removes operations whose factor has fallen below a threshold, at the end of every epoch after the warm-up.

    What is removed leaves the supernet, the optimizer and the memory (``BilevelTask.restrict``); nothing is removed
    that the space or the discretizer cannot do without. The weight of the task's ``ExpectedCost`` is multiplied by
    ``growth`` after an epoch in which fewer than ``least`` operations went, divided by it after any other. Every
    removal leaves a smaller network, a point between cost and accuracy: ``series.json``, beside the other artifacts,
    has them all, with the parameters that are left, loss and accuracy of the supernet on fixed images of the search
    half, by batch statistics, and the architecture that the discretizer would read.

    A reconstruction. In the paper any set of operations that survives is a network; here the series says what the
    supernet is worth with them, and the discretizer reads an architecture of the space. One process only.

    References:
        1. Bi, Xie, Chen, Wei, Tian: GOLD-NAS: Gradual, One-Level, Differentiable, 2020, https://arxiv.org/abs/2007.03331

    Args:
        threshold: Factor below which an operation may go, above 0 (the paper: about 0.05).
        least: Operations an epoch that are enough, at least 1.
        most: Operations an epoch that may go, at least ``least``.
        growth: What the weight is multiplied or divided by, at least 1.
        until: Operations left, over all cell types, at which the search ends; it ends with its epochs if null.
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
            ConfigError: Of the task, its regularizers, its data or the processes.
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
        if self.until is not None and self.until >= _left(pl_module):
            raise ConfigError(
                f"until is {self.until}, but the space has {_left(pl_module)} operations on all edges. Set it lower."
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, note what is left, and move the weight of the cost."""
        task: Any = pl_module
        if trainer.current_epoch - task.began < task.warmup_epochs:
            return
        allowed, removed = self._pruned(task)
        if removed:
            task.restrict(allowed)
            self.series.append(self._point(trainer, task))
        (penalty,) = _penalties(task)
        penalty.weight *= self.growth if removed < self.least else 1 / self.growth
        task.log_dict({"pruning/operations": float(_left(task)), "pruning/weight": penalty.weight})
        if self.until is not None and _left(task) <= self.until:
            trainer.should_stop = True

    def _pruned(self, task: BilevelTask) -> tuple[dict[str, Tensor], int]:
        """What may stay, and how many operations may not."""
        with torch.no_grad():
            factors = {name: mixture.operations.cpu() for name, mixture in task.mixtures().items()}
        allowed = {name: mask.clone() for name, mask in task.space.allowed.items()}
        weak = [
            (float(factors[name][edge, operation]), name, edge, operation)
            for name, mask in allowed.items()
            for edge, operation in mask.nonzero().tolist()
            if factors[name][edge, operation] < self.threshold
        ]
        removed = 0
        for _, name, edge, operation in sorted(weak):
            if removed == self.most or (self.until is not None and _count(allowed) <= self.until):
                break
            allowed[name][edge, operation] = False
            if _legal(task, allowed):
                removed += 1
            else:
                allowed[name][edge, operation] = True
        return allowed, removed

    def _point(self, trainer: Trainer, task: BilevelTask) -> dict[str, Any]:
        found = task.discretize()
        point = {
            "epoch": trainer.current_epoch,
            "operations": _left(task),
            "parameters": parameters(task.supernet),
            "text": task.space.text(found),
            "choices": list(found.choices),
        }
        if self.images:
            point["loss"], point["accuracy"] = worth(task, None, *fixed_images(task, self.images, self.seed))
        return point

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``series.json``."""
        task: Any = pl_module
        folder = output_folder(trainer, task.output_dir)
        if trainer.is_global_zero:
            write_json(folder / "series.json", {"task": type(task).__name__, "seed": task.seed, "series": self.series})

    def state_dict(self) -> dict[str, Any]:
        """The series so far; the weight is the regularizer's."""
        return {"series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.series = list(state_dict["series"])


def _penalties(task: BilevelTask) -> list[ExpectedCost]:
    return [each for each in task.regularizers if isinstance(each, ExpectedCost)]


def _count(allowed: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in allowed.values())


def _left(task: BilevelTask) -> int:
    return _count(task.space.allowed)


def _legal(task: BilevelTask, allowed: dict[str, Tensor]) -> bool:
    """Whether space and discretizer can do with that."""
    try:
        task.discretizer.check(task.space.restrict(allowed))
    except ConfigError:
        return False
    return True
