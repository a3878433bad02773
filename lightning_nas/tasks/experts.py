"""Training of the networks whose trajectories trajectory matching follows."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from lightning_nas.checks import at_least
from lightning_nas.data.sets import Batch, classes_of
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.experts import Experts
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.files.artifacts import LARGEST_TENSORS
from lightning_nas.tasks.base import MIXED, Task
from lightning_nas.tasks.common import EpochMeans, check_sizes, check_state, check_weights, kept, output_folder
from lightning_nas.tasks.optimization import build_optimizer


class ExpertsTask(Task):
    """Trains several networks on the real images, one after another, and keeps their weights after every epoch.

    It writes ``experts.safetensors`` and ``experts.json``, which ``TrajectoryMatching`` follows, anew whenever an
    expert is finished. Each expert starts from new weights and a new state of the optimizer, and trains at a constant
    learning rate. ``trainer.max_epochs`` must be the number of epochs of all experts together. A checkpoint contains
    all trajectories so far; resuming it with more ``experts`` and ``max_epochs`` adds experts.

    References:
        1. Cazenavette, Wang, Torralba, Efros, Zhu: Dataset Distillation by Matching Training Trajectories, CVPR 2022,
           https://arxiv.org/abs/2203.11932

    Args:
        optimizer: Optimizer of the network weights (the paper: SGD with lr 0.01, batches of 256).
        experts: Number of networks, at least 1 (the paper: 100).
        epochs_per_expert: Number of epochs of each network, at least 1 (the paper: 50).
        width: Channels of the networks, at least 1; see ``ConvNet`` (the paper: 128).
        depth: Blocks of the networks, at least 1; each halves the image (the paper: 3 at 32x32).
        augmentation: Change of training batches, the same for all images of a batch; none if null.
        seed: Seed of the initial weights and of the augmentation.
        output_dir: Folder of the written files; the folder of this run's logger if null.
        num_classes: Number of classes; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.

    Attributes:
        outputs: Files that the run has written, by kind of artifact; on the main process only.

    Raises:
        ConfigError: An argument is out of its range, or the file would be too large to be read.

    Example:
        ```yaml
        model:
          class_path: ExpertsTask
          init_args:
            experts: 5
            epochs_per_expert: 10
            optimizer:
              class_path: torch.optim.SGD
              init_args: {lr: 0.01}
        data:
          class_path: CIFAR10DataModule
          init_args:
            batch_size: 256
        trainer:
          max_epochs: 50
        ```
    """

    writes = ("experts.safetensors", "experts.json")
    metrics_logged = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
    precisions = (*MIXED, "64-true")
    overfits = True
    length_from = "experts and epochs_per_expert"

    def __init__(
        self,
        optimizer: OptimizerCallable,
        *,
        experts: int = 5,
        epochs_per_expert: int = 10,
        width: int = 128,
        depth: int = 3,
        augmentation: SiameseAugmentation | None = None,
        seed: int = 0,
        output_dir: str | None = None,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        at_least(1, experts=experts, epochs_per_expert=epochs_per_expert, width=width, depth=depth)
        self.make_optimizer = optimizer
        self.experts = experts
        self.epochs_per_expert = epochs_per_expert
        self.arguments: dict[str, Any] = {
            "width": width,
            "depth": depth,
            "image_shape": tuple(image_shape),
            "num_classes": num_classes,
        }
        self.augmentation = augmentation
        self.seed = seed
        self.output_dir = output_dir
        self.network = self._network(0)
        size = experts * (epochs_per_expert + 1) * 4 * sum(p.numel() for p in self.network.parameters())
        if size >= LARGEST_TENSORS:
            raise ConfigError(
                f"{experts} experts of {epochs_per_expert} epochs and width {width} make a file of {size} bytes; files "
                f"of {LARGEST_TENSORS} bytes or more are not read. Use fewer experts or epochs, or a smaller width."
            )
        self.means = EpochMeans()
        # not a buffer, which processes would send to each other before every step
        self.recorded: list[Tensor] = []
        self.outputs: dict[str, list[Path]] = {}

    def _network(self, expert: int) -> ConvNet:
        """Make a network with the initial weights of an expert."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, "expert", expert))
            return ConvNet(**self.arguments)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits ``(batch, classes)`` of the current expert."""
        logits: Tensor = self.network(x)
        return logits

    def setup(self, stage: str) -> None:
        """Forget an earlier training; a checkpoint restores its trajectories afterwards.

        Raises:
            ConfigError: ``max_epochs`` is not the number of epochs of all experts, or the data module names another
                number of classes or another shape of images.
        """
        self.means.clear()
        self.recorded.clear()
        check_sizes(self, self.arguments["num_classes"], self.arguments["image_shape"])
        epochs = self.experts * self.epochs_per_expert
        if stage == "fit" and self.trainer.max_epochs != epochs:
            raise ConfigError(
                f"trainer.max_epochs is {self.trainer.max_epochs}; {self.experts} experts of {self.epochs_per_expert} "
                f"epochs need {epochs}. Set --trainer.max_epochs {epochs}, or change experts or epochs_per_expert."
            )

    def configure_optimizers(self) -> Any:
        """Make the optimizer."""
        return build_optimizer(self.make_optimizer, self.parameters())

    def on_train_start(self) -> None:
        """Begin an expert, unless the checkpoint has begun it."""
        if len(self.recorded) % (self.epochs_per_expert + 1) == 0:
            self._begin()

    @property
    def finished(self) -> int:
        """Number of experts whose training is complete."""
        return len(self.recorded) // (self.epochs_per_expert + 1)

    def _begin(self) -> None:
        """Begin the next expert, if there is one."""
        if self.finished == self.experts:
            return
        self.network.load_state_dict(self._network(self.finished).state_dict())
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()
        self._record()

    def _record(self) -> None:
        self.recorded.append(parameters_to_vector(self.network.parameters()).detach().float().cpu())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss on one batch."""
        images, labels = batch
        if self.augmentation is not None:
            images = self.augmentation(images, derived_seed(self.seed, "augment", self.current_epoch, batch_idx))
        found = self._measured("train", images, labels)
        self.means.add(found, len(labels))
        return found["train/loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy of the current expert on the validation set, if the data have one."""
        self.log_dict(self._measured("val", *batch), batch_size=len(batch[1]), sync_dist=True)

    def _measured(self, split: str, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self(images)
        accuracy = (logits.argmax(1) == classes_of(labels)).float().mean()
        return {f"{split}/loss": F.cross_entropy(logits, labels), f"{split}/accuracy": accuracy}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the training if its loss is not finite."""
        self.means.check(self, batch_idx)

    def on_train_epoch_end(self) -> None:
        """Log the means and keep the weights; after an expert's last epoch, write the experts and begin the next."""
        self.means.log(self)
        check_weights(self)
        self._record()
        folder = output_folder(self.trainer, self.output_dir)
        if len(self.recorded) % (self.epochs_per_expert + 1) == 0:
            self._write(folder)
            self._begin()

    def on_fit_end(self) -> None:
        """Write the experts of a run that was resumed after its last epoch, if they are not there."""
        folder = output_folder(self.trainer, self.output_dir)
        if self.finished and not (folder / "experts.safetensors").is_file():
            self._write(folder)

    def _write(self, folder: Path) -> None:
        if not self.trainer.is_global_zero:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        rows = self.epochs_per_expert + 1
        weights = torch.stack(self.recorded[: self.finished * rows]).unflatten(0, (-1, rows))
        info = {
            "source": type(data).__name__,
            "source_images": len(data.train_set),
            "mean": [float(v) for v in data.mean],
            "std": [float(v) for v in data.std],
            "split": data.split,
            "seed": self.seed,
        }
        path = Experts(weights, **self.arguments, info=info).save(folder / "experts.safetensors")
        self.outputs["experts"] = [path, path.with_suffix(".json")]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the trajectories, and the sums of the epoch so far.

        Raises:
            TrainingError: A loss or a parameter is not finite.
        """
        self.means.save(self, checkpoint)
        checkpoint["experts"] = {"recorded": list(self.recorded), "epochs_per_expert": self.epochs_per_expert}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the trajectories, and the sums of the epoch so far.

        Raises:
            CheckpointError: The checkpoint has other networks, or other numbers of epochs or experts.
        """
        check_state(self, checkpoint)
        self.means.load(self, checkpoint)
        state = kept(self, checkpoint, "experts")
        self.recorded, epochs = list(state["recorded"]), state["epochs_per_expert"]
        begun = -(-len(self.recorded) // (epochs + 1))
        if epochs != self.epochs_per_expert or begun > self.experts:
            raise CheckpointError(
                f"The checkpoint has {begun} experts of {epochs} epochs, the last of which may be unfinished; here "
                f"experts is {self.experts} and epochs_per_expert {self.epochs_per_expert}. Use the same "
                "epochs_per_expert and no fewer experts, or start anew without --ckpt_path."
            )
