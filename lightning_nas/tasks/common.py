"""What the tasks share."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_nas.errors import CheckpointError, TrainingError

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
