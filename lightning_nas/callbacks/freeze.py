"""Single-stage search: the architecture is frozen, and the training goes on with the same weights."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_json
from lightning_nas.tasks.base import check_alone
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import check_fixed_images, fixed_images, output_folder


class FreezeArchitecture(Callback):
    """Ends the search at the start of an epoch, and goes on training what was found with its weights in the supernet.

    At the start of epoch ``epoch`` the architecture is read from the alphas. All other operations are removed from the
    supernet and the optimizer, what is left gets the factor 1, and the alphas stop moving; nothing is read or trained
    again at the end. Temperatures and the weights of regularizers reach their last values by then. What is lost by
    freezing, the discretization gap, is logged as ``freeze/gap_loss`` and ``freeze/gap_accuracy``. ``gap.json`` holds
    the loss and accuracy on fixed images of the search half, with batch statistics: of the mixtures, of the frozen
    architecture, and of the frozen architecture at the end of the training. With ``write_supernet`` the task writes the
    weights, which learn from the train half only, as before.

    A reconstruction from the paper's summary. The paper uses more images for the weights than for the alphas, which is
    the ``search_fraction`` of ``HalvesDataModule`` here. One process only.

    References:
        1. Subbotko, Jablonski, Bilinski: The Devil is in Discretization Discrepancy: Robustifying Differentiable NAS
           with Single-Stage Searching Protocol, 2024, https://arxiv.org/abs/2405.16610

    Args:
        epoch: The first epoch without a search, counted from 0, at least 1.
        images: Number of images of the search half that the gap is measured on, at least 1.
        seed: Seed of the choice of these images.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        trainer:
          max_epochs: 50
          callbacks: [{class_path: FreezeArchitecture, init_args: {epoch: 25}}]
        ```
    """

    writes = ("gap.json",)

    metrics_logged = ("freeze/gap_loss", "freeze/gap_accuracy")
    changes_supernet = True

    def __init__(self, epoch: int, *, images: int = 256, seed: int = 0) -> None:
        at_least(1, epoch=epoch, images=images)
        self.epoch = epoch
        self.images = images
        self.seed = seed
        self.measured: dict[str, dict[str, float]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the course of the search end where it is frozen, and refuse a search that cannot be frozen.

        Raises:
            ConfigError: The task, its data, the number of epochs or the number of processes does not allow it.
        """
        task = _search(pl_module)
        task.search_epochs = self.epoch
        check_fixed_images("FreezeArchitecture", trainer)
        if self.epoch <= task.warmup_epochs:
            raise ConfigError(
                f"epoch is {self.epoch}, but the alphas do not move in the first {task.warmup_epochs} epochs, the "
                "warm-up. Freeze the architecture later."
            )
        epochs = trainer.max_epochs or -1
        if 0 <= epochs <= self.epoch:
            raise ConfigError(
                f"epoch is {self.epoch}, but the last of {epochs} epochs is epoch {epochs - 1}. Train for longer, or "
                "freeze the architecture earlier."
            )
        check_alone(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze the architecture if it is time."""
        task = _search(pl_module)
        if trainer.current_epoch < self.epoch or task.model.frozen:
            return
        before = self._measure(task, "mixtures")
        task.model.freeze(task.model.discretize())
        after = self._measure(task, "frozen")
        task.log_dict({"freeze/gap_loss": after[0] - before[0], "freeze/gap_accuracy": before[1] - after[1]})

    def _measure(self, task: BilevelTask, name: str) -> tuple[float, float]:
        loss, accuracy = task.model.loss_and_accuracy(*fixed_images(task, self.images, self.seed))
        self.measured[name] = {"loss": loss, "accuracy": accuracy}
        return loss, accuracy

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``gap.json``, unless the run was stopped before the architecture was frozen."""
        task = _search(pl_module)
        if not task.model.frozen:
            return
        self._measure(task, "trained")
        folder = output_folder(trainer, task.output_dir)
        content = {"epoch": self.epoch, "images": self.images, **self.measured}
        task.outputs["gap"] = [write_json(folder / "gap.json", content)]

    def state_dict(self) -> dict[str, Any]:
        """The measurements so far."""
        return {"measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.measured = dict(state_dict["measured"])


def _search(module: LightningModule) -> BilevelTask:
    if not isinstance(module, BilevelTask):
        raise ConfigError(
            f"FreezeArchitecture freezes the architecture of a BilevelTask; the task is {type(module).__name__}. Leave "
            "it out of trainer.callbacks."
        )
    return module
