"""Single-stage search: the architecture is frozen in the middle of a training that goes on with the same weights."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_json
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import check_fixed_images, fixed_images, output_folder


class FreezeArchitecture(Callback):
    """Ends the search after some epochs, and trains what was found on, with the weights that it has in the supernet.

    At the start of the epoch the architecture is read from the alphas; all other operations leave the supernet and the
    optimizer, what is left has the factor 1, and the alphas no longer move: nothing is decoded or trained again at the
    end. What the mixtures lose by that, the discretization gap, is logged as ``freeze/gap_loss`` and
    ``freeze/gap_accuracy`` and written to ``gap.json``: loss and accuracy on fixed images of the search half, with
    batch statistics, of the mixtures, of the frozen architecture, and of that at the end of the training.
    ``write_supernet`` of the task writes the weights, which learn from the train half only, as before.

    A reconstruction from the paper's summary. Its split of the data, more images for the weights than for the alphas,
    is the ``search_fraction`` of ``HalvesDataModule``. One process only.

    References:
        1. Subbotko, Jablonski, Bilinski: The Devil is in Discretization Discrepancy: Robustifying Differentiable NAS
           with Single-Stage Searching Protocol, 2024, https://arxiv.org/abs/2405.16610

    Args:
        epoch: The first epoch without a search, counted from 0, at least 1.
        images: Of the search half that the gap is measured on, at least 1.
        seed: Of the choice of these images.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(self, epoch: int, images: int = 256, seed: int = 0) -> None:
        at_least(1, epoch=epoch, images=images)
        self.epoch = epoch
        self.images = images
        self.seed = seed
        self.measured: dict[str, dict[str, float]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a search that cannot be frozen.

        Raises:
            ConfigError: Of the task, its data, the epochs or the processes.
        """
        task = _search(pl_module)
        check_fixed_images("FreezeArchitecture", trainer)
        if self.epoch <= task.warmup_epochs:
            raise ConfigError(
                f"The architecture is frozen at the start of epoch {self.epoch}, but the alphas do not move in the "
                f"first {task.warmup_epochs} epochs, the warm-up. Freeze later."
            )
        epochs = trainer.max_epochs or -1
        if 0 <= epochs <= self.epoch:
            raise ConfigError(
                f"The architecture is frozen at the start of epoch {self.epoch}, but the last of {epochs} is epoch "
                f"{epochs - 1}. Train for longer, or freeze earlier."
            )
        if trainer.world_size > 1:
            raise ConfigError(
                f"Operations cannot be taken away from {trainer.world_size} processes that train together. Use one "
                "device."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze where it is time."""
        task = _search(pl_module)
        if trainer.current_epoch < self.epoch or task.model.frozen:
            return
        before = self._measure(task, "mixtures")
        task.freeze_architecture(task.model.discretize())
        after = self._measure(task, "frozen")
        task.log_dict({"freeze/gap_loss": after[0] - before[0], "freeze/gap_accuracy": before[1] - after[1]})

    def _measure(self, task: BilevelTask, name: str) -> tuple[float, float]:
        loss, accuracy = task.model.loss_and_accuracy(*fixed_images(task, self.images, self.seed))
        self.measured[name] = {"loss": loss, "accuracy": accuracy}
        return loss, accuracy

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``gap.json``, unless the run was stopped before there was a gap."""
        task = _search(pl_module)
        if not task.model.frozen:
            return
        self._measure(task, "trained")
        folder = output_folder(trainer, task.output_dir)
        content = {"epoch": self.epoch, "images": self.images, **self.measured}
        task.outputs["gap"] = [write_json(folder / "gap.json", content)]

    def state_dict(self) -> dict[str, Any]:
        """What was measured."""
        return {"measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.measured = dict(state_dict["measured"])


def _search(module: LightningModule) -> BilevelTask:
    if not isinstance(module, BilevelTask):
        raise ConfigError(
            f"FreezeArchitecture freezes the architecture of a BilevelTask; the task is {type(module).__name__}. Leave "
            "it out of trainer.callbacks."
        )
    return module
