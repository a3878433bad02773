"""Training of a single-path supernet, and a measure of how well it ranks."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, within
from lightning_nas.data.base import ImageDataModule
from lightning_nas.data.sets import Batch, classes_of
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluator, evaluate_each, sign_of
from lightning_nas.metrics.ranking import ranking
from lightning_nas.spaces.base import SupernetSpace
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.supernets.sampling import PathSampler, UniformPaths
from lightning_nas.supernets.scoring import fixed_images, score_paths
from lightning_nas.supernets.unused_weights import UnusedWeightGuard
from lightning_nas.tasks.base import MIXED, Task
from lightning_nas.tasks.common import EpochMeans, check_sizes, check_state, output_folder, reaching
from lightning_nas.tasks.optimization import configure


class SupernetTask(Task):
    """Trains a supernet on sampled paths (SPOS), and compares its ranking of architectures with a reference.

    A step minimizes the mean loss of the architectures that ``paths`` draws. The draw depends on the seed and the step
    alone, so that all processes draw the same architectures. Weights that no drawn architecture uses stay exactly
    unchanged: neither momentum nor weight decay moves them. At the end, the weights are written to
    ``supernet.safetensors``.

    With ``ranked`` architectures, validation scores them on the validation set, each with batch-norm statistics of its
    own, and logs their mean accuracy. Where a ``reference`` is given, it also logs how well the two rankings agree, as
    ``lightning_nas.metrics.ranking.ranking`` measures it.

    References:
        1. Guo, Zhang, Mu, Heng, Liu, Wei, Sun: Single Path One-Shot Neural Architecture Search with Uniform Sampling,
           ECCV 2020, https://arxiv.org/abs/1904.00420

    Args:
        space: Search space whose architectures the supernet contains.
        optimizer: Optimizer of the supernet's weights (SPOS: SGD with momentum 0.9).
        scheduler: Learning rate scheduler, stepped after every epoch; a constant rate if null.
        paths: Sampler of the architectures that a step trains; one uniformly drawn architecture per step if null.
        supernet_path: Path of a ``supernet.safetensors`` to start from. Its space may be wider: weights are inherited
            by name. Weights are new if null.
        reference: Evaluator that knows how good the architectures are, such as a table; nothing is compared if null.
        objective: Objective of the reference to compare with. Lower is better where its name ends in ``loss``.
        ranked: Number of architectures that validation scores, drawn uniformly, at least 2; 0 scores none.
        calibration_images: Number of training images on which batch-norm statistics are measured, at least 2.
        label_smoothing: Label smoothing of the training loss, from 0 to 1.
        seed: Seed of the initial weights, the paths and the architectures to rank.
        output_dir: Folder of the written files; the folder of this run's logger if null.
        num_classes: Number of classes; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.

    Attributes:
        outputs: Files that the run has written, by kind of artifact; on the main process only.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        model:
          class_path: SupernetTask
          init_args:
            space:
              class_path: NASBench201Space
            optimizer:
              class_path: torch.optim.SGD
              init_args: {lr: 0.1, momentum: 0.9}
        data:
          class_path: CIFAR10DataModule
          init_args:
            validation_fraction: 0.1
        ```
    """

    writes = ("supernet.safetensors", "supernet.json")
    metrics_logged: tuple[str, ...] = ("train/loss", "train/accuracy", "val/accuracy", "val/*")
    precisions = (*MIXED, "64-true")
    overfits = True

    def __init__(
        self,
        space: SupernetSpace,
        *,
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
        if ranked != 0:
            at_least(2, ranked=ranked)
        at_least(2, calibration_images=calibration_images)
        within("[0, 1]", label_smoothing=label_smoothing)
        self.space = space
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.paths = paths or UniformPaths()
        self.reference = reference
        self.objective = objective
        self.ranked = ranked
        if not ranked:
            self.metrics_logged = ("train/loss", "train/accuracy")
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
        """Download what the reference needs, in one process per machine."""
        if self.reference is not None:
            self.reference.prepare_data()

    def setup(self, stage: str) -> None:
        """Check that the data are images of the shape and the classes of the supernet.

        Raises:
            ConfigError: They are not.
        """
        self.means.clear()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        if not isinstance(data, ImageDataModule):
            raise ConfigError(
                f"{type(self).__name__} needs a data module of images, such as CIFAR10DataModule; the data "
                f"are {type(data).__name__}."
            )
        check_sizes(self, *self.sizes)

    def forward(self, x: Tensor, architecture: Architecture) -> Tensor:
        """Compute the logits ``(batch, classes)`` of one architecture."""
        logits: Tensor = self.supernet(x, self.space.to_path(architecture))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of the drawn paths."""
        images, labels = batch
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "paths", self.global_step))
        losses, hits = [], []
        for architecture in self.paths.draw(self.space, generator):
            logits = self(images, architecture)
            losses.append(F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing))
            hits.append((logits.argmax(1) == classes_of(labels)).float().mean())
        loss = reaching(torch.stack(losses).mean(), self.supernet.parameters(), self.trainer)
        self.means.add({"train/loss": loss, "train/accuracy": torch.stack(hits).mean()}, len(labels))
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Remember the weights that no path used."""
        self.untouched.before_step(optimizer)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take a step that leaves unused weights unchanged."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.untouched.after_step(optimizer.optimizer)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the training if its loss is not finite."""
        self.means.check(self, batch_idx)

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch."""
        self.means.log(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the images, and score every architecture on all of them when the last ones have come.

        At the end of the epoch it would be too late: callbacks that average weights have taken the averages back by
        then.
        """
        if not self.ranked:
            return
        self._held.append(batch)
        trainer = self.trainer
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        if batch_idx + 1 == sum(batches):
            held, self._held = self._held, []
            self._rank(held)

    def _rank(self, held: list[Batch]) -> None:
        """Score the architectures, and compare their ranking with the reference."""
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
            sign = sign_of(self.objective)
            known = evaluate_each(self.reference, architectures)
            pairs = [
                (score, sign * each.objectives[self.objective])
                for score, each in zip(scores, known, strict=True)
                if each.failure is None
            ]
            if len(pairs) > 1:
                values |= ranking([score for score, _ in pairs], [truth for _, truth in pairs], seed=self.seed)
        named = {f"val/{name}": value for name, value in values.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_train_end(self) -> None:
        """Write the supernet."""
        self._finish()

    def on_fit_end(self) -> None:
        """Write the supernet of a run that was resumed after its last epoch."""
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
        """Make the optimizer, and the scheduler if there is one."""
        return configure(self.supernet.parameters(), self.make_optimizer, self.make_scheduler, self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the sums of the epoch.

        Raises:
            TrainingError: A loss or a parameter is not finite.
        """
        self.means.save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums of the epoch.

        Raises:
            CheckpointError: The checkpoint is of another supernet.
        """
        check_state(self, checkpoint)
        self.means.load(self, checkpoint)
