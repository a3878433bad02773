"""Dataset distillation."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_nas.artifacts import write_tensors
from lightning_nas.distill.base import Matcher, Proxy, Scheme
from lightning_nas.errors import ConfigError
from lightning_nas.tasks.common import EpochMeans, check_state, check_weights, output_folder

Batch = tuple[Tensor, Tensor]


class DistillTask(LightningModule):
    """Condenses the training images into a small proxy.

    The scheme says how the proxy is stored, the matcher what it must have in common with the real images. Batches come
    from ``ClassBalancedDataModule``: the same number of images of every class. After every epoch the proxy on disk is
    written anew: ``proxy.safetensors``, ``proxy.json``, and ``pictures.safetensors`` with a few images for reports.

    Attributes:
        outputs: Files that the run has written, by the kind of artifact; on the main process only.

    Args:
        scheme: How the proxy is stored. A control (real subset, noise) has nothing to train.
        matcher: What trains the scheme; none for a control.
        optimizer: Of the scheme's parameters; none for a control.
        scheduler: Stepped after every epoch.
        seed: Of all random choices.
        output_dir: Where artifacts go; by default the folder of this run's logger.
    """

    def __init__(
        self,
        scheme: Scheme,
        matcher: Matcher | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        output_dir: str | None = None,
    ) -> None:
        super().__init__()
        if (matcher is None) != (optimizer is None):
            raise ConfigError("A matcher needs an optimizer and an optimizer a matcher; a control has neither.")
        self.scheme = scheme
        self.matcher = matcher
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.seed = seed
        self.output_dir = output_dir
        self.means = EpochMeans()
        self.outputs: dict[str, list[Path]] = {}

    def setup(self, stage: str) -> None:
        """Start the scheme from the real training images; a checkpoint's values replace it afterwards."""
        self.means.clear()
        if self.matcher is None and self.trainer.world_size > 1:
            raise ConfigError(f"{type(self.scheme).__name__} has nothing to train; use --trainer.devices 1.")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        images, labels = data.training_images()
        generator = torch.Generator().manual_seed(self.seed)
        self.scheme.start(images, labels, data.num_classes, generator)
        trainable = any(p.requires_grad for p in self.scheme.parameters())
        if trainable != (self.matcher is not None):
            raise ConfigError(
                f"{type(self.scheme).__name__} has {'trainable' if trainable else 'no trainable'} parameters, but "
                f"{'no matcher' if self.matcher is None else 'a matcher'} was given."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """The matcher's loss; nothing for a control."""
        if self.matcher is None:
            return None
        images, labels, _ = self.scheme.proxy()
        seed = (self.seed * 1_000_003 + self.global_step) % 2**63
        loss = self.matcher.loss(batch, (images, labels), seed)
        self.means.add({"train/loss": loss}, len(batch[1]))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop at a loss that is not finite."""
        self.means.check(self, batch_idx)

    def configure_optimizers(self) -> Any:
        """The optimizer of the scheme's parameters; none for a control."""
        if self.make_optimizer is None:
            return None
        optimizer = self.make_optimizer(self.scheme.parameters())
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}

    def on_train_epoch_end(self) -> None:
        """Log the mean loss and write the proxy."""
        self.means.log(self)
        self._write()

    def on_fit_end(self) -> None:
        """Write the proxy of a run that was resumed after its last epoch."""
        self._write()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the means of the epoch so far.

        Raises:
            TrainingError: A loss or a parameter is not finite.
        """
        self.means.save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back.

        Raises:
            CheckpointError: The checkpoint is of another scheme.
        """
        check_state(self, checkpoint)
        self.means.load(self, checkpoint)

    def _write(self) -> None:
        check_weights(self)
        folder = output_folder(self.trainer, self.output_dir)
        if not self.trainer.is_global_zero:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        with torch.no_grad():
            images, labels, groups = (t.detach().cpu() for t in self.scheme.proxy())
        real, real_labels = data.training_images()
        info = {
            "scheme": type(self.scheme).__name__,
            "matcher": None if self.matcher is None else type(self.matcher).__name__,
            "source": type(data.data).__name__,
            "source_images": len(real_labels),
            "proxy_images": len(labels),
            "stored_values": sum(p.numel() for p in self.scheme.parameters()),
            "epochs": self.trainer.current_epoch,
            "seed": self.seed,
        }
        mean, std = [float(v) for v in data.mean], [float(v) for v in data.std]
        Proxy(images, labels, groups, list(data.class_names), mean, std, info).save(folder / "proxy.safetensors")
        scale, shift = (torch.tensor(v)[:, None, None] for v in (std, mean))
        rows = {"proxy": (images, labels), "real": (real, real_labels)}
        pictures = {n: (_some(*pair, data.num_classes) * scale + shift).clamp(0, 1) for n, pair in rows.items()}
        write_tensors(folder / "pictures.safetensors", pictures)
        self.outputs["proxy"] = [folder / "proxy.safetensors", folder / "proxy.json"]


def _some(images: Tensor, labels: Tensor, num_classes: int, most: int = 8) -> Tensor:
    """The first images of up to ten classes, ``(classes, k, channels, height, width)``."""
    shown = range(min(num_classes, 10))
    k = min(most, *(int((labels == c).sum()) for c in shown))
    return torch.stack([images[labels == c][:k] for c in shown])
