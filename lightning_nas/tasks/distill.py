"""Dataset distillation as a task."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_nas.checks import one_of
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Matcher, ProxyRegularizer, Scheme, Synthetic
from lightning_nas.distill.proxy import Proxy
from lightning_nas.distill.storage import BITS
from lightning_nas.errors import ConfigError
from lightning_nas.files.artifacts import write_tensors
from lightning_nas.tasks.base import MIXED, Task
from lightning_nas.tasks.common import EpochMeans, check_state, check_weights, kept, output_folder, synchronised
from lightning_nas.tasks.optimization import configure


class DistillTask(Task):
    """Condenses the training images into a small proxy.

    The scheme says how the proxy is stored, the matcher what it must have in common with the real images. Data come
    from ``ClassBalancedDataModule``. After every epoch whose mean loss of the matcher is the lowest so far, the proxy
    is written, so that the best one is always on disk: ``proxy.safetensors`` and ``proxy.json``, with a few images
    for reports in ``pictures.safetensors``.

    Args:
        scheme: How the proxy is stored. Controls (real images, noise) have nothing to train.
        matcher: What the scheme is trained for; null for a control.
        optimizer: Optimizer of the scheme's parameters; null for a control.
        scheduler: Learning rate scheduler, stepped after every epoch; a constant rate if null.
        regularizers: Terms that are added to the matcher's loss.
        bits: Bits per number in which the proxy is stored: 2 to 8 (affine integers, packed into bytes), 16 (float16)
            or 32 (float32). It is trained in full precision and rounded when it is written.
        seed: Seed of all random choices.
        output_dir: Folder of the written files; the folder of this run's logger if null.

    Attributes:
        inputs: Files that the matcher reads, by kind of artifact.
        outputs: Files that the run has written, by kind of artifact; on the main process only.

    Raises:
        ConfigError: There is a matcher without an optimizer, or an optimizer or regularizers without a matcher, or
            ``bits`` is another number.

    Example:
        ```yaml
        model:
          class_path: DistillTask
          init_args:
            scheme:
              class_path: PlainImages
            matcher:
              class_path: DistributionMatching
            optimizer:
              class_path: torch.optim.SGD
              init_args: {lr: 1.0, momentum: 0.5}
        data:
          class_path: ClassBalancedDataModule
          init_args:
            data:
              class_path: CIFAR10DataModule
        ```
    """

    precisions: tuple[str, ...] = (*MIXED, "64-true")
    writes = ("proxy.safetensors", "proxy.json", "pictures.safetensors")
    metrics_logged: tuple[str, ...] = ("train/loss", "train/*")

    def __init__(
        self,
        scheme: Scheme,
        *,
        matcher: Matcher | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        regularizers: Sequence[ProxyRegularizer] | None = None,
        bits: int = 32,
        seed: int = 0,
        output_dir: str | None = None,
    ) -> None:
        super().__init__()
        one_of(BITS, bits=bits)
        if (matcher is None) != (optimizer is None) or (matcher is None and regularizers):
            raise ConfigError(
                "A matcher needs an optimizer, and an optimizer or regularizers need a matcher; a control has neither."
            )
        # the features of controls are those of a network in float32
        self.precisions = MIXED if matcher is None else (*MIXED, "64-true")
        self.scheme = scheme
        self.matcher = matcher
        self.regularizers = torch.nn.ModuleList(regularizers or [])
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.bits = bits
        self.seed = seed
        self.output_dir = output_dir
        self.means = EpochMeans()
        self.best = math.inf
        self.best_epoch = 0
        self.best_tensors: dict[str, Tensor] = {}
        self.inputs = {} if matcher is None else matcher.inputs
        names = [] if matcher is None else ["loss", *(type(each).__name__ for each in self.regularizers)]
        self.metrics_logged = tuple(f"train/{name}" for name in names)
        self.outputs: dict[str, list[Path]] = {}

    @property
    def trains(self) -> bool:
        """Whether there is anything to train: a control has nothing."""
        return self.matcher is not None

    def setup(self, stage: str) -> None:
        """Start the scheme from the real training images; a checkpoint replaces its values afterwards.

        Raises:
            ConfigError: The scheme has nothing to train and a matcher, or the other way round; or the matcher or a
                regularizer does not work with the data.
        """
        self.means.clear()
        self.best, self.best_epoch, self.best_tensors = math.inf, 0, {}
        if self.matcher is None and self.trainer.world_size > 1:
            raise ConfigError(f"{type(self.scheme).__name__} has nothing to train. Use --trainer.devices 1.")
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
        if self.matcher is not None:
            for index, part in enumerate((self.matcher, *self.regularizers)):
                part.start(data.image_shape, data.num_classes, derived_seed(self.seed, "part", index))
            self.matcher.check_source(self._source)

    def _step_seed(self, step: int) -> int:
        return (self.seed * 1_000_003 + step) % 2**63

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the matcher's loss plus the regularizers'; None for a control."""
        if self.matcher is None:
            return None
        seed = self._step_seed(self.global_step)
        loss = self.matcher.loss(batch, self.scheme.draw, seed)
        means = {"train/loss": loss}
        for regularizer in self.regularizers:
            assert isinstance(regularizer, ProxyRegularizer)
            added = regularizer.loss(batch, self.scheme, seed)
            means[f"train/{type(regularizer).__name__}"] = added
            loss = loss + added
        if synchronised(self.trainer):
            # data-parallel training waits for a gradient of every parameter, even of soft labels that nothing uses
            loss = loss + 0 * torch.stack([p.sum() for p in self.scheme.parameters() if p.requires_grad]).sum()
        self.means.add(means, len(batch[1]))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the optimizer's step, then let the matcher advance, before any callback can write a checkpoint."""
        seed = self._step_seed(self.global_step)
        super().optimizer_step(*args, **kwargs)
        if self.matcher is not None:
            with torch.no_grad():
                self.matcher.advance(self._drawn, seed)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop the training if its loss is not finite."""
        self.means.check(self, batch_idx)

    def _drawn(self, seed: int) -> Synthetic:
        with torch.no_grad():
            return self.scheme.draw(seed).detached()

    def configure_optimizers(self) -> Any:
        """Make the optimizer of the scheme's parameters, and the scheduler if there is one; nothing for a control."""
        if self.make_optimizer is None:
            return None
        assert self.matcher is not None
        groups = [*self.scheme.parameter_groups(), *self.matcher.parameter_groups()]
        return configure(groups, self.make_optimizer, self.make_scheduler, self.trainer)

    def on_train_epoch_end(self) -> None:
        """Log the mean losses, and write the proxy if it is the best so far."""
        loss = self.means.mean("train/loss", self.trainer) if self.matcher is not None else -math.inf
        self.means.log(self)
        check_weights(self)
        if loss < self.best:
            self.best, self.best_epoch = loss, self.trainer.current_epoch + 1
            self.best_tensors = {name: tensor.detach().clone() for name, tensor in self.scheme.state_dict().items()}
            self._write(output_folder(self.trainer, self.output_dir))

    def on_fit_end(self) -> None:
        """Write the best proxy of a run that was resumed with another output folder and found no better one."""
        folder = output_folder(self.trainer, self.output_dir)
        if self.trainer.is_global_zero and not (folder / "proxy.safetensors").is_file():
            last = {name: tensor.detach().clone() for name, tensor in self.scheme.state_dict().items()}
            self.scheme.load_state_dict(self.best_tensors)
            self._write(folder)
            self.scheme.load_state_dict(last)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the sums of the epoch so far, and the best proxy.

        Raises:
            TrainingError: A loss or a parameter is not finite.
        """
        self.means.save(self, checkpoint)
        checkpoint["best"] = {"loss": self.best, "epoch": self.best_epoch, "tensors": self.best_tensors}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the sums of the epoch so far, and the best proxy.

        Raises:
            CheckpointError: The checkpoint is of another scheme.
        """
        check_state(self, checkpoint)
        self.means.load(self, checkpoint)
        best: Any = kept(self, checkpoint, "best")
        self.best, self.best_epoch = float(best["loss"]), int(best["epoch"])
        self.best_tensors = {name: tensor.to(self.device) for name, tensor in best["tensors"].items()}

    @property
    def _source(self) -> dict[str, Any]:
        """Describe the real images, as JSON values."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        mean, std = [float(v) for v in data.mean], [float(v) for v in data.std]
        return {"mean": mean, "std": std, "split": data.data.split}

    def _write(self, folder: Path) -> None:
        if not self.trainer.is_global_zero:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        mean, std = self._source["mean"], self._source["std"]
        proxy = Proxy(self.scheme, list(data.class_names), mean, std, {}, self.bits)
        synthetic = Synthetic(*(None if t is None else t.cpu() for t in proxy.rounded().synthetic))  # type: ignore[arg-type]  # in order
        real, real_labels = data.training_images()
        info = {
            "matcher": None if self.matcher is None else type(self.matcher).__name__,
            "regularizers": [type(r).__name__ for r in self.regularizers],
            "source": type(data.data).__name__,
            "source_images": len(real_labels),
            "proxy_images": len(synthetic.labels),
            "stored_bytes": proxy.stored_bytes,
            "loss": self.best if math.isfinite(self.best) else None,
            "epochs": self.best_epoch,
            "seed": self.seed,
            "split": self._source["split"],
            **({} if self.matcher is None else self.matcher.info()),
        }
        replace(proxy, info=info).save(folder / "proxy.safetensors")
        scale, shift = (torch.tensor(v)[:, None, None] for v in (std, mean))
        rows = {"proxy": (synthetic.images, synthetic.labels), "real": (real, real_labels)}
        pictures = {n: (_some(*pair, data.num_classes) * scale + shift).clamp(0, 1) for n, pair in rows.items()}
        write_tensors(folder / "pictures.safetensors", pictures)
        self.outputs["proxy"] = [folder / "proxy.safetensors", folder / "proxy.json"]


def _some(images: Tensor, labels: Tensor, num_classes: int, most: int = 8) -> Tensor:
    """Return the first images of up to ten classes, ``(classes, k, channels, height, width)``."""
    shown = range(min(num_classes, 10))
    k = min(most, *(int((labels == c).sum()) for c in shown))
    return torch.stack([images[labels == c][:k] for c in shown])
