"""What the tasks share."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_nas.errors import CheckpointError, ConfigError, TrainingError

CHECK_EVERY = 50
"""Batches after which a GPU's losses, or those of several processes, are looked at."""


class EpochMeans:
    """Means of an epoch's batches, weighted by their sizes, logged once an epoch.

    Sums stay on the device. ``LightningModule.log`` of every batch would give the same numbers, but on small networks
    it takes a tenth of a step.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.samples: dict[str, int] = {}

    def clear(self) -> None:
        """Forget what was added: the start of a training; a checkpoint's sums are loaded after it."""
        self.sums.clear()
        self.samples.clear()

    def add(self, values: dict[str, Tensor], samples: int) -> None:
        """Count a batch.

        Args:
            values: Means over the batch by metric, scalars; they are detached.
            samples: Size of the batch.
        """
        for name, value in values.items():
            if name in self.sums:
                self.sums[name].add_(value.detach(), alpha=samples)
            else:
                self.sums[name] = value.detach() * samples
            self.samples[name] = self.samples.get(name, 0) + samples

    def check(self, task: LightningModule, batch_idx: int | None = None) -> None:
        """Stop a training whose loss is not finite.

        Looking costs a wait for the device. One process on the CPU looks after every batch; others after every
        ``CHECK_EVERY``, all at once, and at the end of an epoch.

        Args:
            task: The task, for where it is.
            batch_idx: The batch, if the epoch is not at its end.

        Raises:
            TrainingError: A sum is infinite or not a number.
        """
        trainer = task.trainer
        one_cpu = trainer.world_size == 1 and task.device.type == "cpu"
        if not self.sums or (batch_idx is not None and not one_cpu and (batch_idx + 1) % CHECK_EVERY):
            return
        sums = torch.stack([total.double() for total in self.sums.values()])
        sums = trainer.strategy.reduce(sums, reduce_op="sum")
        wrong = [(name, float(s)) for name, s in zip(self.sums, sums, strict=True) if not math.isfinite(s)]
        if wrong:
            name, value = wrong[0]
            half = {"train": "the train half", "search": "the search half"}.get(name.split("/")[0], "the data")
            batch = trainer.fit_loop.epoch_loop.batch_idx
            where = f"at batch {batch}" if one_cpu else f"by batch {batch}"
            raise TrainingError(
                f"{name}, on {half}, became {value} in epoch {trainer.current_epoch} {where}. {last_good(trainer)} "
                "Lower the learning rates, clip gradients, or use bf16-mixed instead of 16-mixed."
            )

    def save(self, task: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the sums over all processes into a checkpoint, which may be one within an epoch.

        Raises:
            TrainingError: A loss or a parameter is not finite: the checkpoint before must not be replaced.
        """
        self.check(task)
        check_weights(task)
        reduce = task.trainer.strategy.reduce
        sums = {name: reduce(total.clone(), reduce_op="sum").cpu() for name, total in self.sums.items()}
        world = task.trainer.world_size  # whose batches are equally large
        checkpoint["means"] = {"sums": sums, "samples": {n: count * world for n, count in self.samples.items()}}

    def load(self, task: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the sums back, on the main process alone: means over processes are weighted by their samples."""
        self.clear()
        if task.trainer.is_global_zero:
            self.sums = {name: total.to(task.device) for name, total in checkpoint["means"]["sums"].items()}
            self.samples = dict(checkpoint["means"]["samples"])

    def mean(self, name: str, trainer: Trainer) -> float:
        """One mean over the batches of all processes; to be called by all of them."""
        both = torch.stack([self.sums[name].double(), self.sums[name].new_tensor(self.samples[name]).double()])
        total, samples = trainer.strategy.reduce(both, reduce_op="sum").tolist()
        return float(total / samples)

    def log(self, task: LightningModule) -> None:
        """Log the means over the batches of all processes, and start anew; for ``on_train_epoch_end``.

        Raises:
            TrainingError: One is not finite.
        """
        self.check(task)
        for name, total in self.sums.items():
            samples = self.samples[name]
            # Lightning weights the means of the processes by batch_size
            task.log(name, total / samples, batch_size=samples, sync_dist=True, prog_bar=name.startswith("train/"))
        self.clear()


def last_good(trainer: Trainer) -> str:
    """A sentence about the checkpoint that a failed training can go on from."""
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    return f"The last good checkpoint is {path}." if path else "There is no checkpoint from before."


def check_weights(task: LightningModule) -> None:
    """Refuse to save parameters that are not finite over a checkpoint whose are.

    Raises:
        TrainingError: A parameter is infinite or not a number.
    """
    wrong = [name for name, p in task.named_parameters() if not bool(p.isfinite().all())]
    if wrong:
        raise TrainingError(
            f"{len(wrong)} parameters, the first {wrong[0]}, are not finite after batch "
            f"{task.trainer.fit_loop.epoch_loop.batch_idx} of epoch {task.trainer.current_epoch}; no checkpoint of "
            f"them was written. {last_good(task.trainer)} Lower the learning rates, or clip gradients."
        )


def output_folder(trainer: Trainer, output_dir: str | None) -> Path:
    """Where a task writes its artifacts: ``output_dir``, by default the folder of this run's logger.

    To be called by all processes: the main one tells the others its logger's folder.
    """
    return Path(output_dir or trainer.log_dir or trainer.default_root_dir)


def check_state(task: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Compare the names and shapes of a checkpoint's parameters with those of a task.

    Raises:
        CheckpointError: They differ, so that the checkpoint is of a network of another size or form.
    """
    made = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    mine = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    wrong = [name for name in {**mine, **made} if mine.get(name) != made.get(name)]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"The checkpoint is of another network: {len(wrong)} parameters differ, the first is {name} with shape "
            f"{made.get(name)} in the checkpoint and {mine.get(name)} here (None: absent). Use the "
            "configuration that it was made with: cli_config.yaml in its run's folder."
        )


def check_halves(batch: Any) -> None:
    """Refuse a batch that does not hold both halves of the training data.

    Args:
        batch: A batch of any data module.

    Raises:
        ConfigError: It lacks ``train`` or ``search``.
    """
    if not isinstance(batch, Mapping) or not {"train", "search"} <= batch.keys():
        received = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise ConfigError(
            f"A batch is {received}; a search needs the halves train and search in each. Give "
            "lightning_nas.data.halves.HalvesDataModule the data module as `data`."
        )


def check_fixed_images(name: str, trainer: Trainer) -> None:
    """Refuse data that cannot hand out the same images whenever they are asked for.

    Args:
        name: What measures on them, for the message.
        trainer: The trainer of the search.

    Raises:
        ConfigError: The data module has no ``fixed_batch``.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "fixed_batch"):
        raise ConfigError(
            f"{name} measures on fixed images of the search half, which {type(data).__name__} does not hand out. Use "
            "lightning_nas.data.halves.HalvesDataModule."
        )


def fixed_images(task: LightningModule, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The same images of the search half on every call, and their labels, where the parameters of a task are.

    Args:
        task: The search, on data that ``check_fixed_images`` accepts.
        count: Number of images; all of the half if it has fewer.
        seed: Seed of their choice.
    """
    data: Any = task.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
    images, labels = data.fixed_batch("search", min(count, len(data.half("search"))), seed)
    like = next(task.parameters())
    return images.to(like.device, like.dtype), labels.to(like.device)


def log_validation(task: LightningModule, logits: Tensor, labels: Tensor) -> None:
    """Log loss and accuracy on a batch of Lightning's validation set.

    Args:
        task: The task that is validated.
        logits: ``(batch, classes)``.
        labels: Labels ``(batch,)`` of type int64.
    """
    accuracy = (logits.argmax(1) == labels).float().mean()
    values = {"val/loss": F.cross_entropy(logits, labels), "val/accuracy": accuracy}
    task.log_dict(values, prog_bar=True, batch_size=len(labels), sync_dist=True)


def gradient_scaler(trainer: Trainer) -> Any:
    """The gradient scaler of 16-bit precision; None without one.

    Args:
        trainer: The trainer.
    """
    return getattr(trainer.precision_plugin, "scaler", None)


def remaining_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """Factor by which gradients are still scaled just before a step.

    Lightning has unscaled them by then, except for a fused optimizer, which does it within its step.

    Args:
        trainer: The trainer.
        optimizer: The optimizer that is about to step.
    """
    scaler = gradient_scaler(trainer)
    fused = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
    return float(scaler.get_scale()) if fused else 1.0
