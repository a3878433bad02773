"""What several tasks share: means of an epoch, checks of batches and checkpoints, images to measure on."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from lightning_nas.errors import CheckpointError, ConfigError, DataError, TrainingError

Batch = tuple[Tensor, Tensor]

INTERRUPTED = "interrupted.ckpt"
"""Name of the checkpoint that SIGTERM leaves within an epoch, where none is replaced by every epoch."""

CHECK_EVERY = 50
"""Number of batches between two looks at the losses on a GPU or in several processes."""


class EpochMeans:
    """Means over the batches of an epoch, weighted by batch size and logged once per epoch.

    The sums stay on the device. ``LightningModule.log`` in every batch would give the same numbers, but takes a tenth
    of a step on small networks.

    Attributes:
        sums: Sum of every metric over the images so far.
        samples: Number of images so far, by metric.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.samples: dict[str, int] = {}

    def clear(self) -> None:
        """Forget all batches, at the start of a training; the sums of a checkpoint are loaded later."""
        self.sums.clear()
        self.samples.clear()

    def add(self, values: dict[str, Tensor], samples: int) -> None:
        """Add a batch.

        Args:
            values: Means over the batch by metric, scalars; they are detached here.
            samples: Number of images in the batch.
        """
        for name, value in values.items():
            if name in self.sums:
                self.sums[name].add_(value.detach(), alpha=samples)
            else:
                self.sums[name] = value.detach() * samples
            self.samples[name] = self.samples.get(name, 0) + samples

    def check(self, task: LightningModule, batch_idx: int | None = None) -> None:
        """Stop a training whose loss is not finite.

        Every look waits for the device. A single process on the CPU looks after every batch; all others look together
        after every ``CHECK_EVERY`` batches and at the end of an epoch.

        Args:
            task: The task that is trained.
            batch_idx: Index of the batch; None at the end of an epoch.

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
        """Put the sums over all processes into a checkpoint, which may be written within an epoch.

        Args:
            task: The task that is trained.
            checkpoint: The checkpoint that is being written.

        Raises:
            TrainingError: A loss or a parameter is not finite; the earlier checkpoint must not be replaced then.
        """
        self.check(task)
        check_weights(task)
        reduce = task.trainer.strategy.reduce
        sums = {name: reduce(total.clone(), reduce_op="sum").cpu() for name, total in self.sums.items()}
        world = task.trainer.world_size  # all processes have batches of the same size
        checkpoint["means"] = {"sums": sums, "samples": {n: count * world for n, count in self.samples.items()}}

    def load(self, task: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the sums, on the main process only: they are those of all processes.

        Args:
            task: The task that is trained.
            checkpoint: The checkpoint that is being loaded.
        """
        self.clear()
        if task.trainer.is_global_zero:
            self.sums = {name: total.to(task.device) for name, total in checkpoint["means"]["sums"].items()}
            self.samples = dict(checkpoint["means"]["samples"])

    def mean(self, name: str, trainer: Trainer) -> float:
        """The mean of one metric over the batches of all processes; all of them must call this.

        Args:
            name: Name of the metric.
            trainer: The trainer.
        """
        both = torch.stack([self.sums[name].double(), self.sums[name].new_tensor(self.samples[name]).double()])
        total, samples = trainer.strategy.reduce(both, reduce_op="sum").tolist()
        return float(total / samples)

    def log(self, task: LightningModule) -> None:
        """Log the means over the batches of all processes and forget the batches; for ``on_train_epoch_end``.

        Args:
            task: The task that is trained.

        Raises:
            TrainingError: A mean is not finite.
        """
        self.check(task)
        for name, total in self.sums.items():
            samples = self.samples[name]
            # Lightning weights the means of the processes by batch_size
            task.log(name, total / samples, batch_size=samples, sync_dist=True, prog_bar=name.startswith("train/"))
        self.clear()


def last_good(trainer: Trainer) -> str:
    """A sentence about the checkpoint that a failed training can be resumed from.

    Args:
        trainer: The trainer.
    """
    path = last_checkpoint(trainer)
    return f"The last good checkpoint is {path}." if path is not None else "There is no earlier checkpoint."


def last_checkpoint(trainer: Trainer) -> Path | None:
    """The newest checkpoint of the run that is still there; None if there is none.

    Args:
        trainer: The trainer.
    """
    found = []
    for keeper in trainer.checkpoint_callbacks:
        if isinstance(keeper, ModelCheckpoint) and keeper.dirpath:
            found += [keeper.best_model_path, keeper.last_model_path, f"{keeper.dirpath}/{INTERRUPTED}"]
    there = [Path(path) for path in found if path and Path(path).exists()]
    return max(there, key=lambda path: path.stat().st_mtime, default=None)


def check_weights(task: LightningModule) -> None:
    """Refuse to replace a good checkpoint by one with parameters that are not finite.

    Args:
        task: The task that is trained.

    Raises:
        TrainingError: A parameter is infinite or not a number.
    """
    floats = {name: p.detach() for name, p in task.named_parameters() if p.numel() and p.is_floating_point()}
    # the largest absolute value, in a few kernels and one wait; it is not finite if one number is not
    if floats and not torch.nn.utils.get_total_norm(floats.values(), math.inf).isfinite():
        wrong = [name for name, p in floats.items() if not p.isfinite().all()]
        raise TrainingError(
            f"{len(wrong)} parameters, the first {wrong[0]}, are not finite after batch "
            f"{task.trainer.fit_loop.epoch_loop.batch_idx} of epoch {task.trainer.current_epoch}; no checkpoint of "
            f"them was written. {last_good(task.trainer)} Lower the learning rates, or clip gradients."
        )


def check_sizes(task: LightningModule, num_classes: int, image_shape: Sequence[int]) -> None:
    """Compare the classes and images that a task was made for with those of the data.

    Args:
        task: The task, in its ``setup``.
        num_classes: Number of classes of the task.
        image_shape: Shape of the images of the task, ``(channels, height, width)``.

    Raises:
        ConfigError: The data module says otherwise.
    """
    data = getattr(task.trainer, "datamodule", None)
    made = {"num_classes": num_classes, "image_shape": tuple(image_shape)}
    given = {"num_classes": getattr(data, "num_classes", None), "image_shape": getattr(data, "image_shape", None)}
    wrong = [
        f"{name} is {made[name]} here and {value} in the data"
        for name, value in given.items()
        if value is not None and made[name] != (tuple(value) if name == "image_shape" else value)
    ]
    if wrong:
        raise ConfigError(
            f"{type(task).__name__} was made for other data than those of {type(data).__name__}: {'; '.join(wrong)}. "
            "Make it with num_classes and image_shape of the data, as the command line does."
        )


def check_labels(labels: Tensor, num_classes: int, batch_idx: int) -> None:
    """Refuse labels that a network has no output for.

    Every batch is looked at on the CPU, and the first one of an epoch on a GPU, where a look waits for the device.

    Args:
        labels: Labels of a batch, ``(batch,)``, or probabilities of classes, ``(batch, classes)``.
        num_classes: Number of outputs.
        batch_idx: Index of the batch in its epoch.

    Raises:
        DataError: A label is negative or too large.
    """
    if labels.ndim != 1 or not len(labels) or (batch_idx and labels.device.type != "cpu"):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"A batch has labels from {low} to {high}; the network has {num_classes} outputs, for labels from 0 to "
            f"{num_classes - 1}. Number the classes from 0, and make the task with their number as num_classes; the "
            "command line takes it from the attribute num_classes of the data module."
        )


_folders: WeakKeyDictionary[Trainer, Path] = WeakKeyDictionary()
"""Folders of the runs that have no logger."""


def output_folder(trainer: Trainer, output_dir: str | None) -> Path:
    """The folder of a task's artifacts. All processes must call this: the main one decides for all.

    A run has a folder of its own, whatever its logger: ``log_dir`` of the first logger or, where a logger has none,
    ``NAME/VERSION`` in its ``save_dir`` or ``default_root_dir``, beside the checkpoints. The folder of a run without a
    logger is the next free ``lightning_logs/version_N`` in ``default_root_dir``, as with a ``CSVLogger``.

    Args:
        trainer: The trainer.
        output_dir: The folder that the user has named; None for the run's own folder.

    Raises:
        ConfigError: The folder of a run without a logger cannot be made.
    """
    if output_dir:
        return Path(output_dir)
    own = _own_folder(trainer) if trainer.is_global_zero else Path()
    return trainer.strategy.broadcast(own)


def _own_folder(trainer: Trainer) -> Path:
    """The folder of the run, on the main process."""
    for logger in trainer.loggers[:1]:
        if folder := getattr(logger, "log_dir", None):
            return Path(folder)
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        if logger.name and version:
            return Path(logger.save_dir or trainer.default_root_dir, logger.name, version)
    while trainer not in _folders:
        folder = Path(CSVLogger(trainer.default_root_dir).log_dir)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run has just made it
            continue
        except OSError as error:
            raise ConfigError(
                f"The run cannot make the folder {folder} ({error.strerror or error}). Change the permissions, or "
                "choose another folder by --trainer.default_root_dir."
            ) from None
        _folders[trainer] = folder
    return _folders[trainer]


def kept(task: LightningModule, checkpoint: dict[str, Any], key: str) -> Any:
    """What a task of this class has put into a checkpoint.

    Args:
        task: The task that is to load the checkpoint.
        checkpoint: The checkpoint.
        key: Where the task puts it.

    Raises:
        CheckpointError: There is nothing: the checkpoint belongs to another task.
    """
    if key not in checkpoint:
        raise CheckpointError(
            f"The checkpoint belongs to another task: it has no {key!r}, which {type(task).__name__} needs. Use a "
            "checkpoint of this task, or start without one."
        )
    return checkpoint[key]


def check_state(task: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Compare the names and shapes of the parameters in a checkpoint with those of a task.

    Args:
        task: The task that is to load the checkpoint.
        checkpoint: The checkpoint.

    Raises:
        CheckpointError: They differ: the checkpoint belongs to another network.
    """
    made = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    mine = {name: tuple(value.shape) for name, value in task.state_dict().items()}
    wrong = [name for name in {**mine, **made} if mine.get(name) != made.get(name)]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"The checkpoint belongs to another network: {len(wrong)} parameters differ, the first is {name} with "
            f"shape {made.get(name)} in the checkpoint and {mine.get(name)} here (None: absent). Use the configuration "
            "that it was made with: cli_config.yaml in the folder of its run."
        )


def halves_of(batch: Any) -> tuple[Batch, Batch]:
    """The train half and the search half of a batch, each with its images and labels.

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
    return batch["train"], batch["search"]


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


def loss_scale(trainer: Trainer) -> float:
    """Factor by which 16-bit precision scales a loss at present; 1 without a gradient scaler.

    Args:
        trainer: The trainer.
    """
    scaler = gradient_scaler(trainer)
    return 1.0 if scaler is None else float(scaler.get_scale())


def synchronised(trainer: Trainer) -> bool:
    """Whether gradients are reduced over processes, be it one: a gradient of every parameter is waited for then.

    Args:
        trainer: The trainer.
    """
    return isinstance(trainer.strategy, DDPStrategy)


def reaching(loss: Tensor, parameters: Iterable[Tensor], trainer: Trainer) -> Tensor:
    """A loss that gives every parameter a gradient, of zero where it has none of its own.

    Data-parallel training waits for a gradient of every parameter. On a single device the loss is returned as it is.

    Args:
        loss: The loss, a scalar.
        parameters: Parameters that the loss may not reach.
        trainer: The trainer.
    """
    if not synchronised(trainer):
        return loss
    sums = torch.stack([p.sum() for p in parameters])
    # chosen nowhere, so that the gradients are zero even where a parameter is infinite
    return loss + torch.where(torch.zeros_like(sums, dtype=torch.bool), sums, 0.0).sum()


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
