"""Training of a single-path supernet, and how well it ranks."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from lightning_nas.architecture import Architecture
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.sets import Batch, classes_of
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.metrics.ranking import ranking
from lightning_nas.spaces.base import SupernetSpace
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.supernets.sampling import PathSampler, UniformPaths
from lightning_nas.supernets.scoring import fixed_images, score_paths
from lightning_nas.supernets.unused_weights import UnusedWeightGuard
from lightning_nas.tasks.common import EpochMeans, check_state, output_folder


class SupernetTask(LightningModule):
    """Trains a supernet on sampled paths (SPOS), and compares its ranks with the truth.

    A step minimises the mean loss of the architectures that ``paths`` draws; the draw depends on the seed and the step
    alone, so that all processes take the same ones. Weights of operations that were on none of them stay exactly as
    they are. At the end ``supernet.safetensors`` holds the weights.

    With ``ranked`` architectures, validation scores them on the validation set, each with batch-norm statistics of its
    own, and logs the mean accuracy; where ``reference`` knows them, also ``lightning_nas.metrics.ranking.ranking`` of
    the two.

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420

    Attributes:
        outputs: Files that the run has written, by the kind of artifact.

    Args:
        space: What the supernet holds.
        optimizer: Of the weights.
        scheduler: Stepped after every epoch.
        paths: What a step trains; by default one uniformly drawn architecture.
        supernet_path: ``supernet.safetensors`` to start from, such as one of a wider space whose weights are inherited
            by name; new weights if null.
        reference: What knows the architectures' true worth, such as a table; nothing is compared if null.
        objective: Which of its objectives.
        ranked: Architectures that validation scores, drawn uniformly; none if 0.
        calibration_images: Training images that batch-norm statistics are measured on, at least 2.
        label_smoothing: Of the training loss.
        seed: Of the weights, the paths and the architectures that are ranked.
        output_dir: Where the files go; by default the folder of this run's logger.
        num_classes: Set from the data by the command line.
        image_shape: Likewise.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        space: SupernetSpace,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None = None,
        paths: PathSampler | None = None,
        supernet_path: str | None = None,
        reference: Evaluator | None = None,
        objective: str = "accuracy",
        ranked: int = 0,
        calibration_images: int = 256,
        label_smoothing: float = 0.0,
        seed: int = 0,
        output_dir: str | None = None,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        if ranked < 0 or ranked == 1 or calibration_images < 2:
            raise ConfigError(
                f"ranked is {ranked} and calibration_images {calibration_images}; expected are 0 or at least 2, and at "
                "least 2."
            )
        self.space = space
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.paths = paths or UniformPaths()
        self.reference = reference
        self.objective = objective
        self.ranked = ranked
        self.calibration_images = calibration_images
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.output_dir = output_dir
        self.sizes = (num_classes, tuple(image_shape))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "supernet"))
            self.supernet = space.supernet(num_classes=num_classes, image_shape=image_shape)
        if supernet_path is not None:
            TrainedSupernet.load(supernet_path).hand_on(self.supernet)
        self.untouched = UnusedWeightGuard(self.supernet)
        self.means = EpochMeans()
        self.outputs: dict[str, list[Path]] = {}
        self._held: list[Batch] = []
        self._finished = False

    def prepare_data(self) -> None:
        """Download what the truth needs."""
        if self.reference is not None:
            self.reference.prepare_data()

    def setup(self, stage: str) -> None:
        """Refuse data without what is needed here.

        Raises:
            ConfigError: The data are no images, or batch norm is to be synchronised over processes.
        """
        self.means.clear()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        if not isinstance(data, ImageDataModule):
            raise ConfigError(
                f"{type(self).__name__} needs images, such as lightning_nas.data.images.CIFAR10DataModule; the data "
                f"are {type(data).__name__}."
            )

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        """Logits ``(batch, classes)`` of one architecture."""
        logits: Tensor = self.supernet(x, self.space.to_path(architecture))
        return logits

    # -- training -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of the drawn paths."""
        images, labels = batch
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "paths", self.global_step))
        losses, hits = [], []
        for architecture in self.paths.draw(self.space, generator):
            logits = self(images, architecture)
            losses.append(F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing))
            hits.append((logits.argmax(1) == classes_of(labels)).float().mean())
        loss = torch.stack(losses).mean()
        if self.trainer.world_size > 1:
            # data parallelism waits for a gradient of every parameter
            loss = loss + 0.0 * torch.stack([p.sum() for p in self.supernet.parameters()]).sum()
        self.means.add({"train/loss": loss, "train/accuracy": torch.stack(hits).mean()}, len(labels))
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Note the weights that no path used."""
        self.untouched.before_step(optimizer)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """A step that leaves these as they are."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.untouched.after_step(optimizer.optimizer)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop at a loss that is not finite."""
        self.means.check(self, batch_idx)

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch."""
        self.means.log(self)

    # -- ranks --------------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the images: every architecture is scored on all of them."""
        if self.ranked:
            self._held.append(batch)

    def on_validation_epoch_end(self) -> None:
        """Score, and compare."""
        held, self._held = self._held, []
        if not held:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        calibration, _ = fixed_images(data, data.train_set, self.calibration_images, self.seed)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "ranked"))
        drawn = {self.space.key(a): a for a in (self.space.sample(generator) for _ in range(self.ranked))}
        architectures = list(drawn.values())
        paths = [self.space.to_path(architecture) for architecture in architectures]
        found = score_paths(self.supernet, paths, calibration.to(self.device), held)
        scores = [each["accuracy"] for each in found]
        values = {"accuracy": sum(scores) / len(scores)}
        if self.reference is not None and len(scores) > 1:
            sign = -1.0 if self.objective.endswith("loss") else 1.0
            truths = [sign * each.objectives[self.objective] for each in self.reference.evaluate(architectures)]
            values |= ranking(scores, truths, seed=self.seed)
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)

    # -- the end ------------------------------------------------------------------------------------------------------

    def on_train_end(self) -> None:
        """Write the supernet."""
        self._finish()

    def on_fit_end(self) -> None:
        """Write that of a run that was resumed after its last epoch."""
        if not self._finished:
            self._finish()

    def _finish(self) -> None:
        self._finished = True
        folder = output_folder(self.trainer, self.output_dir)
        if not self.trainer.is_global_zero:
            return
        info = {"paths": type(self.paths).__name__, "steps": self.global_step, "seed": self.seed}
        made = TrainedSupernet(self.supernet, self.space, self.sizes[1], self.sizes[0], info)  # type: ignore[arg-type]
        path = made.save(folder / "supernet.safetensors")
        self.outputs["supernet"] = [path, path.with_suffix(".json")]

    def configure_optimizers(self) -> Any:
        """The optimizer, and the scheduler where there is one."""
        optimizer = self.make_optimizer(self.supernet.parameters())
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of the epoch.

        Raises:
            TrainingError: A loss or a parameter is not finite.
        """
        self.means.save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back.

        Raises:
            CheckpointError: The checkpoint is of another supernet.
        """
        check_state(self, checkpoint)
        self.means.load(self, checkpoint)
