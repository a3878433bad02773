"""Settings that must not change where a training is resumed from a checkpoint."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from lightning_nas.errors import CheckpointError

_IMPLEMENTATION = ("capturable", "foreach", "fused")
"""Settings of optimizers that only choose between equal implementations."""

_START_ANEW = "Use the settings of the checkpoint, or start anew without --ckpt_path."


class ResumeCheck(Callback):
    """Refuses to resume a training with settings that its checkpoint would override or that would change its course.

    A checkpoint contains the settings of optimizers and schedulers, which Lightning restores over those of the
    configuration without a message. Such a difference is an error before the first step. So is another number of
    processes, batch size, number of batches per epoch or accumulated batches, with which the rest of the run would
    differ from its beginning, and another division of the images, with which it would be measured on images that it was
    trained on.

    There is one exception. A cosine schedule follows a new ``trainer.max_epochs``: from the resumed epoch on, learning
    rates are those of a run of the new length.

    The command line adds this callback to every ``fit``.

    Example:
        ```python
        Trainer(callbacks=[ResumeCheck()])
        ```
    """

    def __init__(self) -> None:
        self.before: dict[str, Any] = {}
        self.checkpoint: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The sizes that a resumed run must have."""
        return dict(self.before)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sizes, which ``on_train_start`` compares."""
        self.before = dict(state_dict)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint until the optimizers exist that it is compared with."""
        self.checkpoint = checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare optimizers and schedulers with those of the checkpoint, which Lightning restores after this hook.

        Raises:
            CheckpointError: A setting differs, or the checkpoint is damaged.
        """
        checkpoint, self.checkpoint = self.checkpoint, {}
        try:
            self._compare(trainer, checkpoint)
        except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"The optimizers or schedulers of the checkpoint are damaged ({type(error).__name__}: {error!s:.200}). "
                "Use another checkpoint, or start anew without --ckpt_path."
            ) from None

    def _compare(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        optimizers, states = trainer.optimizers, checkpoint.get("optimizer_states", [])
        schedulers: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
        kept = checkpoint.get("lr_schedulers", [])
        differences = []
        for name, own, others in (("optimizers", optimizers, states), ("schedulers", schedulers, kept)):
            if checkpoint and len(own) != len(others):
                differences.append(f"it has {len(others)} {name}, this run has {len(own)}")
        for optimizer, state in zip(optimizers, states, strict=False):
            differences += _optimizer_differences(optimizer, state)
        for scheduler, state in zip(schedulers, kept, strict=False):
            own_length = ("T_max",) if isinstance(scheduler, CosineAnnealingLR) else ()
            differences += _scheduler_differences(scheduler, state, own_length)
        if differences:
            raise CheckpointError(
                f"The checkpoint would override settings of this run: {'; '.join(differences):.1000}. {_START_ANEW}"
            )
        for scheduler, state in zip(schedulers, kept, strict=False):
            if isinstance(scheduler, CosineAnnealingLR) and scheduler.T_max != state["T_max"]:
                _follow(scheduler, state, states[optimizers.index(scheduler.optimizer)])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the sizes of this run with those of the checkpoint.

        Raises:
            CheckpointError: A size differs.
        """
        batches = trainer.num_training_batches
        data = getattr(trainer, "datamodule", None)
        sizes = {
            "processes": trainer.world_size,
            "division of the images": getattr(data, "split", None),
            "batch size": getattr(data, "batch_size", None),
            "batches per epoch": None if math.isinf(batches) else int(batches),
            "accumulated batches": trainer.accumulate_grad_batches,
        }
        changed = [
            f"{name}: {self.before[name]} in the checkpoint, {value} here"
            for name, value in sizes.items()
            if name in self.before and self.before[name] != value
        ]
        if changed:
            raise CheckpointError(
                f"The run that is resumed had other settings ({'; '.join(changed)}), so that its rest would "
                f"differ from its beginning. {_START_ANEW}"
            )
        self.before = sizes


def _optimizer_differences(optimizer: Optimizer, state: Mapping[str, Any]) -> Iterator[str]:
    """Settings of an optimizer that its state in a checkpoint would override."""
    if "param_groups" not in state:  # Lightning's stand-in for the optimizer of a task that has none
        return
    own, kept = optimizer.param_groups, state["param_groups"]
    if len(own) != len(kept):
        yield f"{type(optimizer).__name__} has {len(kept)} parameter groups in the checkpoint, {len(own)} here"
        return
    for group, other in zip(own, kept, strict=True):
        # schedulers change lr, and keep what it was at the start as initial_lr
        names = [name for name in optimizer.defaults if name not in ("lr", *_IMPLEMENTATION)]
        names.append("initial_lr" if "initial_lr" in group and "initial_lr" in other else "lr")
        for name in names:
            if name in group and name in other and group[name] != other[name]:
                shown = "lr" if name == "initial_lr" else name
                yield f"{shown} of {type(optimizer).__name__} is {other[name]} in the checkpoint, {group[name]} here"


def _scheduler_differences(scheduler: Any, state: Mapping[str, Any], allowed: Sequence[str] = ()) -> Iterator[str]:
    """Arguments of a scheduler that its state in a checkpoint would override, also of schedulers within it."""
    own = scheduler.state_dict()
    for name in inspect.signature(type(scheduler)).parameters:
        if name in ("last_epoch", "optimizer", *allowed) or name not in own or name not in state:
            continue
        if own[name] != state[name]:
            yield f"{name} of {type(scheduler).__name__} is {state[name]} in the checkpoint, {own[name]} here"
    inner = zip(getattr(scheduler, "_schedulers", ()), state.get("_schedulers", ()), strict=False)
    for each, kept in inner:
        yield from _scheduler_differences(each, kept)


def _follow(scheduler: CosineAnnealingLR, state: dict[str, Any], optimizer: dict[str, Any]) -> None:
    """Change the state of a cosine schedule, and of its optimizer, to that of a schedule of another length."""
    share = (1 + math.cos(math.pi * state["last_epoch"] / scheduler.T_max)) / 2
    rates = [scheduler.eta_min + (base - scheduler.eta_min) * share for base in state["base_lrs"]]
    rank_zero_info(
        f"The cosine schedule follows the new length of {scheduler.T_max} epochs instead of {state['T_max']}: the "
        f"learning rate goes on at {rates[0]:.3g} instead of {state['_last_lr'][0]:.3g}."
    )
    state["T_max"], state["_last_lr"] = scheduler.T_max, rates
    for group, rate in zip(optimizer["param_groups"], rates, strict=True):
        group["lr"] = rate
