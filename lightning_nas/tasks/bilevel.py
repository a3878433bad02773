"""Bi-level differentiable search."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_nas.architecture import Architecture
from lightning_nas.artifacts import write_tensors
from lightning_nas.data.sets import classes_of
from lightning_nas.differentiable.attention.base import Attention
from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.hypergradient.base import BilevelProblem, Hypergradient, VirtualStep, Weights
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.selection import SelectionErrors, selection_errors
from lightning_nas.spaces.base import DifferentiableSpace, Mixture, Supernet
from lightning_nas.spaces.convert import inherit, inherit_optimizer
from lightning_nas.tasks.closed import Closed
from lightning_nas.tasks.common import EpochMeans, check_state, output_folder
from lightning_nas.tasks.execution import Compile, Execution, Memory

Batch = tuple[Tensor, Tensor]


class BilevelTask(LightningModule):
    """Searches by gradients: alphas follow the search half, weights the train half, in turns.

    One batch: the hypergradient of ``L_search`` moves the alphas, then the gradient of ``L_train`` moves the weights.
    With all components off this is DARTS. Batches are ``{"train": (images, labels), "search": (images, labels)}``.
    The alphas are parameters of this module and of the second optimizer alone. Both forward passes move the batch-norm
    statistics; the selection errors are measured with batch statistics. Of several processes, each normalises by its
    own part of the batch, and takes over the statistics of the main one. At the end of ``fit`` it writes
    ``architecture.json`` and ``alphas.safetensors`` (the factors after every epoch).

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Attributes:
        found: The architecture at the end of ``fit``, decided by the main process for all.
        outputs: Files that the run has written, by the kind of artifact; on the main process only.

    Args:
        space: What is searched.
        hypergradient: The gradient that the alphas follow.
        discretizer: How the found architecture is read from the alphas.
        weight_optimizer: Of the weights (DARTS: SGD, lr 0.025, momentum 0.9, weight decay 3e-4).
        alpha_optimizer: Of the alphas (DARTS: Adam, lr 3e-4, betas 0.5 and 0.999, weight decay 1e-3).
        weight_scheduler: Stepped after every epoch (DARTS: cosine down to 0.001).
        alpha_scheduler: Likewise for the alphas (DARTS: none).
        relaxation: From alphas to factors within an edge; by default the softmax.
        attention: What weights channels or operations inside the supernet; None in DARTS.
        normalization: What makes the factors of different edges comparable; None in DARTS.
        regularizers: Terms of the alphas' loss; none in DARTS.
        warmup_epochs: Epochs at the start in which only weights move.
        weight_clip_norm: Largest norm of the weights' gradient; 0 does not clip (DARTS: 5).
        alpha_scale: Standard deviation of the alphas at the start (DARTS: 1e-3).
        selection_images: Images of the batch on which selection errors are measured; 0 does not measure them.
        seed: Of the alphas at the start and of that batch.
        output_dir: Where artifacts go; by default the folder of this run's logger.
        channels_last: Memory format of images and ordinary convolutions; see ``lightning_nas.tasks.execution``.
        memory: ``low`` computes cells again in the backward pass instead of keeping what is inside them.
        compile: True compiles every cell; ``graphs`` replays the two passes of a step as CUDA graphs.
        num_classes: Number of classes; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.

    Raises:
        ConfigError: Components that don't go together.
    """

    def __init__(
        self,
        space: DifferentiableSpace,
        hypergradient: Hypergradient,
        discretizer: Discretizer,
        weight_optimizer: OptimizerCallable,
        alpha_optimizer: OptimizerCallable,
        weight_scheduler: LRSchedulerCallable | None = None,
        alpha_scheduler: LRSchedulerCallable | None = None,
        relaxation: Relaxation | None = None,
        attention: Attention | None = None,
        normalization: Normalization | None = None,
        regularizers: list[Regularizer] | None = None,
        warmup_epochs: int = 0,
        weight_clip_norm: float = 5.0,
        alpha_scale: float = 1e-3,
        selection_images: int = 256,
        seed: int = 0,
        output_dir: str | None = None,
        channels_last: bool = True,
        memory: Memory = "normal",
        compile: Compile = False,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.space = space
        self.hypergradient = hypergradient
        self.discretizer = discretizer
        self.make_optimizers = (weight_optimizer, alpha_optimizer)
        self.make_schedulers = (weight_scheduler, alpha_scheduler)
        self.relaxation = relaxation or Softmax()
        self.normalization = normalization
        self.regularizers = regularizers or []
        self.warmup_epochs = warmup_epochs
        self.weight_clip_norm = weight_clip_norm
        self.selection_images = selection_images
        self.seed = seed
        self.output_dir = output_dir
        edge_alphas = normalization is not None and normalization.edge_alphas
        if discretizer.edge_alphas and not edge_alphas:
            raise ConfigError(
                f"{type(discretizer).__name__} scores by alphas of edges, which {type(normalization).__name__} does "
                "not train. Use EdgeSoftmax as the normalization, or another discretizer."
            )
        if hypergradient.needs_sgd and (memory == "low" or compile is not False):
            raise ConfigError(
                f"{type(hypergradient).__name__} evaluates the supernet at weights that are not its own, which memory: "
                f"{memory} and compile: {compile} cannot do. Use memory: normal and compile: false, or FirstOrder."
            )
        self.settings = (channels_last, memory, compile)
        self.supernet_arguments: dict[str, Any] = {
            "num_classes": num_classes,
            "image_shape": image_shape,
            "attention": attention,
        }
        self._hold(self._new_supernet())
        generator = torch.Generator().manual_seed(seed)
        shape = (space.edges, len(space.operations))
        self.alphas = nn.ParameterDict(
            {name: alpha_scale * torch.randn(shape, generator=generator) for name in space.cell_types}
        )
        self.edge_alphas = nn.ParameterDict(
            {name: alpha_scale * torch.randn(shape[0], generator=generator) for name in space.cell_types}
            if edge_alphas
            else {}
        )
        self.history: list[dict[str, Tensor]] = []
        self.means = EpochMeans()
        self.weights: dict[str, Tensor] = {}  # the supernet's parameters, kept because a step is short
        self.mixtures()  # a normalization that cannot serve the relaxation says so here
        self._finished = False
        self.found: Architecture | None = None
        self.outputs: dict[str, list[Path]] = {}

    def _new_supernet(self) -> Supernet:
        return self.space.supernet(**self.supernet_arguments)

    def _hold(self, supernet: Supernet) -> None:
        self.supernet = supernet
        self.execution = Execution(supernet, *self.settings)
        self.closed = Closed(self.space)

    @property
    def alpha_list(self) -> tuple[Tensor, ...]:
        """All architecture parameters in a fixed order: those of operations, then those of edges, by cell type."""
        return (*self.alphas.values(), *self.edge_alphas.values())

    def mixtures(self) -> dict[str, Mixture]:
        """The supernet's factors, differentiable in the alphas."""
        found = {}
        edge_alphas = self.closed.edges(dict(self.edge_alphas))
        for name, alphas in self.closed.alphas(dict(self.alphas)).items():
            if self.normalization is None:
                mixture = Mixture(self.relaxation.relax(alphas), alphas.new_ones(len(alphas)))
            else:
                mixture = self.normalization.normalize(alphas, edge_alphas.get(name), self.relaxation, self.space.nodes)
            found[name] = self.closed.mixture(name, mixture)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the supernet, ``(batch, classes)``."""
        return self.execution(x, self.mixtures())

    def discretize(self) -> Architecture:
        """The architecture that the alphas stand for now."""
        return self.discretizer.discretize(
            self.closed.alphas(dict(self.alphas)), self.closed.edges(dict(self.edge_alphas)), self.space
        )

    def restrict(self, allowed: Mapping[str, Tensor]) -> None:
        """Take operations away: their weights, their optimizer state and their part of the factors go.

        What stays keeps weights, batch-norm statistics and optimizer state; alphas keep their shape. Before ``fit`` or
        between two epochs of it; a checkpoint knows what was taken away.

        Args:
            allowed: What may stay; see ``DifferentiableSpace.restrict``.

        Raises:
            ConfigError: The space cannot be restricted so, or several processes hold the weights together.
        """
        trainer = self._trainer
        if trainer is not None and trainer.world_size > 1 and trainer.training:
            raise ConfigError(
                f"Operations cannot be taken away while {trainer.world_size} processes train the supernet together. "
                "Restrict the space before the run, or use one device."
            )
        self.space = self.space.restrict(allowed)
        before = self.supernet
        like = next(before.parameters())
        after = self._new_supernet().to(like.device, like.dtype).train(before.training)
        inherit(after, before)
        self._hold(after)
        if self.weights:  # there are optimizers
            inherit_optimizer(self.trainer.optimizers[0], after, before)
            self.weights = dict(after.named_parameters())

    # -- the two losses -------------------------------------------------------------------------------------------

    def _logits(
        self, images: Tensor, mixtures: Mapping[str, Mixture], weights: Weights | None, frozen: bool = False
    ) -> Tensor:
        if weights is None:
            return self.execution(images, mixtures, frozen=frozen)
        # at other weights than the live ones: in full precision, and with batch-norm statistics of its own
        buffers = {name: b.clone() for name, b in self.supernet.named_buffers()}
        with torch.autocast(images.device.type, enabled=False):
            virtual: Tensor = torch.func.functional_call(
                self.supernet, {**weights, **buffers}, (self.execution.arranged(images), mixtures)
            )
            return virtual

    def _train_loss(self, batch: Batch, weights: Weights | None) -> Tensor:
        return F.cross_entropy(self._logits(batch[0], self.mixtures(), weights), batch[1])

    def _penalty(self) -> Tensor:
        progress = self.current_epoch / max(1, self.trainer.max_epochs or 1)
        terms = [r.penalty(self.closed.alphas(dict(self.alphas), -torch.inf), progress) for r in self.regularizers]
        return torch.stack(terms).sum() if terms else self.alpha_list[0].new_zeros(())

    def _search_loss(self, batch: Batch, weights: Weights | None) -> Tensor:
        loss = F.cross_entropy(self._logits(batch[0], self.mixtures(), weights, frozen=True), batch[1])
        self.means.add({"search/loss": loss}, len(batch[1]))
        scaler = self._scaler()
        total = loss + self._penalty()
        # the optimizer's step divides the gradient by the scale again
        return total if scaler is None else scaler.scale(total)

    def _scaler(self) -> Any:
        """The gradient scaler of 16-bit precision, None without one."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def setup(self, stage: str) -> None:
        """Forget the means of a training before."""
        self.means.clear()

    def on_fit_start(self) -> None:
        """Refuse settings that this device cannot follow.

        Raises:
            ConfigError: Of the execution, or batch norm that is to be synchronised over processes.
        """
        if any(isinstance(part, nn.SyncBatchNorm) for part in self.supernet.modules()):
            raise ConfigError(
                "trainer.sync_batchnorm is true, but the supernet normalises many operations in one pass, by each "
                "process's part of the batch. Set it to false; larger batches a process have the same effect."
            )
        self.execution.check(self.device, str(self.trainer.precision), self.trainer.world_size)

    # -- the step -------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """Move the alphas, then the weights."""
        optimizers: Any = self.optimizers()  # two, see configure_optimizers
        weight_optimizer, alpha_optimizer = optimizers
        train, search = batch["train"], batch["search"]
        move_alphas = self.current_epoch >= self.warmup_epochs
        one_level = self.hypergradient.one_level
        if one_level:
            train = (torch.cat([train[0], search[0]]), torch.cat([train[1], search[1]]))
        elif move_alphas:
            gradients = self.hypergradient.gradient(self._problem(weight_optimizer), train, search)
            for alpha, gradient in zip(self.alpha_list, gradients, strict=True):
                alpha.grad = gradient
            alpha_optimizer.step()
        scaler = self._scaler()
        scale = scaler.get_scale() if scaler is not None else 1.0
        self._weight_phase(train, weight_optimizer, with_alphas=one_level and move_alphas)
        if one_level and move_alphas:
            if scaler is not None:  # the weights' step may have changed it since the alphas' gradient was made
                for alpha in self.alpha_list:
                    alpha.grad = alpha.grad * (scaler.get_scale() / scale) if alpha.grad is not None else None
            alpha_optimizer.step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop at a loss that is not finite."""
        self.means.check(self, batch_idx)

    def _weight_phase(self, batch: Batch, optimizer: LightningOptimizer, *, with_alphas: bool) -> None:
        mixtures = self.mixtures()
        if not with_alphas:
            mixtures = {name: mixture.detached() for name, mixture in mixtures.items()}
        logits = self._logits(batch[0], mixtures, None)
        loss = F.cross_entropy(logits, batch[1])
        objective = loss + self._penalty() if with_alphas else loss
        if self.trainer.world_size > 1:
            # data parallelism waits for a gradient of every parameter, and these have none here
            objective = objective + 0.0 * torch.stack([a.sum() for a in self.alpha_list]).sum()
        optimizer.zero_grad()
        for alpha in self.alpha_list:
            alpha.grad = None
        self.manual_backward(objective)
        optimizer.step()
        accuracy = (logits.argmax(1) == classes_of(batch[1])).float().mean()
        self.means.add({"train/loss": loss, "train/accuracy": accuracy}, len(batch[1]))

    def _problem(self, optimizer: LightningOptimizer) -> BilevelProblem:
        def mean(value: Tensor) -> Tensor:
            reduced: Tensor = self.trainer.strategy.reduce(value, reduce_op="mean")
            return reduced

        step = VirtualStep.of(optimizer.optimizer, self.weights) if self.hypergradient.needs_sgd else None
        return BilevelProblem(self.weights, self.alpha_list, self._train_loss, self._search_loss, step, mean)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the weights' gradient. A gradient scaler has unscaled it by now, which it had not in the step."""
        if self.weight_clip_norm and optimizer is self.trainer.optimizers[0]:
            scaler = self._scaler()
            # a fused optimizer unscales within its step
            fused = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
            scale = scaler.get_scale() if fused else 1.0
            torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.weight_clip_norm * scale)

    def on_train_epoch_end(self) -> None:
        """Log the means, step the schedulers and keep the factors of this epoch."""
        self.means.log(self)
        schedulers: Any = self.lr_schedulers()  # none that needs a metric: they are refused at the start
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if scheduler is not None:
                scheduler.step()
        with torch.no_grad():
            factors = {name: m.operations.clone().cpu() for name, m in self.mixtures().items()}
        self.history.append(factors)
        for name, alphas in self.alphas.items():
            p = alphas.detach().softmax(1)
            self.log(f"search/entropy_{name}", -(p * p.log()).sum(1).mean(), sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of the supernet on Lightning's validation set."""
        logits = self(batch[0])
        accuracy = (logits.argmax(1) == batch[1]).float().mean()
        values = {"val/loss": F.cross_entropy(logits, batch[1]), "val/accuracy": accuracy}
        self.log_dict(values, prog_bar=True, batch_size=len(batch[1]), sync_dist=True)

    # -- the end --------------------------------------------------------------------------------------------------

    def measure_selection(self, images: Tensor, labels: Tensor) -> SelectionErrors:
        """Selection errors of the present alphas on one batch; see ``lightning_nas.metrics.selection``."""
        weights = dict(self.supernet.named_parameters())
        self.supernet.train()  # batch statistics: those of the mixture do not fit a supernet with a part removed

        def loss(changed: Mapping[str, Mixture]) -> float:
            return float(F.cross_entropy(self._logits(images, changed, weights), labels))

        with torch.no_grad():
            return selection_errors(self.space, self.discretize(), self.mixtures(), loss)

    def on_train_end(self) -> None:
        """Write the artifacts."""
        self._finish()

    def on_fit_end(self) -> None:
        """Write the artifacts of a run that was resumed after its last epoch."""
        if not self._finished:
            self._finish()

    def _finish(self) -> None:
        self._finished = True
        architecture = self.discretize()
        self.found = architecture = self.trainer.strategy.broadcast(architecture)
        folder = output_folder(self.trainer, self.output_dir)
        if not self.trainer.is_global_zero:
            return
        errors = None
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.selection_images and hasattr(data, "fixed_batch"):
            size = min(self.selection_images, len(data.half("search")))
            images, labels = data.fixed_batch("search", size, self.seed)
            errors = self.measure_selection(images.to(self.device), labels.to(self.device)).to_dict()
        written = []
        if self.history:
            stacked = {n: torch.stack([factors[n] for factors in self.history]) for n in self.alphas}
            written.append(write_tensors(folder / "alphas.safetensors", stacked))
        components = (self.hypergradient, self.relaxation, self.normalization, self.discretizer, *self.regularizers)
        path = architecture.save(
            folder / "architecture.json",
            task=type(self).__name__,
            components=[type(c).__name__ for c in components if c is not None],
            text=self.space.text(architecture),
            epochs=self.trainer.current_epoch,
            seed=self.seed,
            selection_errors=errors,
        )
        self.outputs["architecture"] = [path, *written]

    # -- optimizers and checkpoints -------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Weights first, alphas second: checkpoints keep them by position."""
        self.weights = dict(self.supernet.named_parameters())
        optimizers = [
            self.make_optimizers[0](self.supernet.parameters()),
            self.make_optimizers[1](self.alpha_list),
        ]
        if self.hypergradient.needs_sgd:
            VirtualStep.of(optimizers[0], self.weights)
        schedulers: list[Any] = [
            make(optimizer) for make, optimizer in zip(self.make_schedulers, optimizers, strict=True) if make
        ]
        plateau = [s for s in schedulers if isinstance(s, torch.optim.lr_scheduler.ReduceLROnPlateau)]
        if plateau:
            raise ConfigError("ReduceLROnPlateau needs a metric, which a search has none of; use another scheduler.")
        return optimizers, schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history of the factors, and what was taken away.

        Raises:
            TrainingError: A loss or a parameter is not finite.
        """
        self.means.save(self, checkpoint)
        checkpoint["alpha_history"] = self.history
        checkpoint["allowed"] = dict(self.space.allowed)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history of the factors back.

        Raises:
            CheckpointError: The checkpoint is of another supernet.
        """
        allowed, mine = checkpoint["allowed"], self.space.allowed
        alike = {name: m.shape for name, m in allowed.items()} == {name: m.shape for name, m in mine.items()}
        if alike and any(not torch.equal(allowed[name].cpu(), mine[name]) for name in mine):
            self.restrict(allowed)
        check_state(self, checkpoint)
        self.history = list(checkpoint["alpha_history"])
        self.means.load(self, checkpoint)
