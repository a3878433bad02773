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
from lightning_nas.data.sets import classes_of
from lightning_nas.data.splits import derived_seed
from lightning_nas.differentiable.alpha_mask import AlphaMask
from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.hypergradient.base import BilevelProblem, Hypergradient, VirtualStep, Weights
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.regularization.base import Regularizer, WeightStep
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.differentiable.runner import Compile, Memory, SupernetRunner
from lightning_nas.errors import CheckpointError
from lightning_nas.metrics.selection import SelectionErrors, selection_errors
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import DifferentiableSpace, Mixture, Supernet
from lightning_nas.supernets.unused_weights import UnusedWeightGuard
from lightning_nas.tasks import supernet_changes
from lightning_nas.tasks.common import EpochMeans, check_state, output_folder
from lightning_nas.tasks.components import (
    check_batch_norm,
    check_components,
    check_epochs,
    check_halves,
    check_numbers,
    check_schedulers,
    check_supernet,
)
from lightning_nas.tasks.search_files import begin_from, write_search

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
        supernet: ``supernet.safetensors`` of a search to go on from, its weights and alphas; new ones if null.
        write_supernet: Whether to write ``supernet.safetensors`` with the alphas at the end.
        channels_last: Memory format of images and ordinary convolutions; see ``lightning_nas.differentiable.runner``.
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
        supernet: str | None = None,
        write_supernet: bool = False,
        channels_last: bool = True,
        memory: Memory = "normal",
        compile: Compile = False,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        check_numbers(warmup_epochs, weight_clip_norm, alpha_scale, selection_images)
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
        self.alpha_scale = alpha_scale
        self.selection_images = selection_images
        self.seed = seed
        self.output_dir = output_dir
        self.write_supernet = write_supernet
        edge_alphas = normalization is not None and normalization.edge_alphas
        check_components(space, hypergradient, discretizer, self.relaxation, normalization, attention, memory, compile)
        check_supernet(attention, supernet, write_supernet)
        self.settings = (channels_last, memory, compile)
        self.supernet_arguments: dict[str, Any] = {
            "num_classes": num_classes,
            "image_shape": image_shape,
            "attention": attention,
        }
        self.hold(space.supernet(**self.supernet_arguments))
        shape, of_edges = (space.edges, len(space.operations)), space.cell_types if edge_alphas else ()
        self.alphas = nn.ParameterDict({name: torch.empty(shape) for name in space.cell_types})
        self.edge_alphas = nn.ParameterDict({name: torch.empty(shape[0]) for name in of_edges})
        supernet_changes.draw_alphas(self, seed)
        self.began = 0  # the epoch in which the present supernet was new
        if supernet is not None:
            begin_from(self, supernet)
        self.history: list[dict[str, Tensor]] = []
        self.means = EpochMeans()
        self.weights: dict[str, Tensor] = {}  # the supernet's parameters, kept because a step is short
        self.mixtures()  # a normalization that cannot serve the relaxation says so here
        for regularizer in self.regularizers:
            regularizer.attach(self)
        self._finished = False
        self.found: Architecture | None = None
        self.outputs: dict[str, list[Path]] = {}

    def hold(self, supernet: Supernet) -> None:
        """Search in this one from now on."""
        self.supernet = supernet
        self.execution = SupernetRunner(supernet, *self.settings)
        self.closed = AlphaMask(self.space)
        self.untouched = UnusedWeightGuard(supernet) if self.relaxation.hard else None

    @property
    def alpha_list(self) -> tuple[Tensor, ...]:
        """All architecture parameters in a fixed order: those of operations, then those of edges, by cell type."""
        return (*self.alphas.values(), *self.edge_alphas.values())

    def mixtures(self, relaxation: Relaxation | None = None) -> dict[str, Mixture]:
        """The supernet's factors, differentiable in the alphas.

        Args:
            relaxation: What makes them; by default the task's own, without any draw.
        """
        fixed = self.closed.fixed(self.alpha_list[0])
        if fixed is not None:
            return fixed
        relaxation = relaxation or self.relaxation
        found = {}
        edge_alphas = self.closed.edges(dict(self.edge_alphas))
        for name, alphas in self.closed.alphas(dict(self.alphas)).items():
            if self.normalization is None:
                mixture = Mixture(relaxation.relax(alphas), alphas.new_ones(len(alphas)))
            else:
                mixture = self.normalization.normalize(alphas, edge_alphas.get(name), relaxation, self.space.nodes)
            mixture = self.closed.mixture(name, mixture)
            if relaxation.hard:
                chosen = mixture.operations != 0
                # a part of what is not chosen is computed all the same, and must not have gradients because of it
                mixture = Mixture(mixture.operations.masked_fill(~chosen, 0.0), mixture.edges, chosen.cpu())
            found[name] = mixture
        return found

    @property
    def progress(self) -> float:
        """The share of the epochs that is over, from 0 to 1."""
        return self.current_epoch / max(1, self.trainer.max_epochs or 1)

    def _drawn_mixtures(self, phase: str) -> dict[str, Mixture]:
        """The factors of one forward pass of a training step."""
        seed = derived_seed(self.seed, "relaxation", phase, self.global_step)
        return self.mixtures(self.relaxation.drawn(self.progress, torch.Generator().manual_seed(seed)))

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
        supernet_changes.restrict(self, allowed)

    def rebuild(self, space: DifferentiableSpace) -> None:
        """Begin anew in another space: new weights, alphas, optimizers and schedulers, and the warm-up once more.

        Between two epochs of ``fit``; a checkpoint knows of it.

        Args:
            space: With the same cell types, edges and operations.

        Raises:
            ConfigError: It has others, the discretizer cannot serve it, or several processes train.
        """
        supernet_changes.rebuild(self, space)

    def _logits(
        self, images: Tensor, mixtures: Mapping[str, Mixture], weights: Weights | None, frozen: bool = False
    ) -> Tensor:
        if weights is None:
            return self.execution(images, mixtures, frozen=frozen)
        buffers = {name: b.clone() for name, b in self.supernet.named_buffers()}
        return self._virtual(images, {**weights, **buffers}, mixtures)

    def _virtual(self, images: Tensor, state: Weights, mixtures: Mapping[str, Mixture]) -> Tensor:
        """Logits at other weights and statistics than the live ones, in full precision."""
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = torch.func.functional_call(
                self.supernet, dict(state), (self.execution.arranged(images), mixtures)
            )
        return logits

    def _train_loss(self, batch: Batch, weights: Weights | None) -> Tensor:
        return F.cross_entropy(self._logits(batch[0], self._drawn_mixtures("train"), weights), batch[1])

    def _penalty(self) -> Tensor:
        alphas = self.closed.alphas(dict(self.alphas), -torch.inf)
        terms = [regularizer.penalty(alphas, self.progress) for regularizer in self.regularizers]
        return torch.stack(terms).sum() if terms else self.alpha_list[0].new_zeros(())

    def _search_loss(self, batch: Batch, weights: Weights | None) -> Tensor:
        loss = F.cross_entropy(self._logits(batch[0], self._drawn_mixtures("search"), weights, frozen=True), batch[1])
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
            ConfigError: Of the execution, the epochs, or batch norm that is to be synchronised over processes.
        """
        check_batch_norm(self.supernet)
        check_epochs(self.trainer.max_epochs, self.relaxation, self.regularizers)
        self.execution.check(self.device, str(self.trainer.precision), self.trainer.world_size)

    # -- the step -------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """Move the alphas, then the weights."""
        optimizers: Any = self.optimizers()  # two, see configure_optimizers
        weight_optimizer, alpha_optimizer = optimizers
        check_halves(batch)
        train, search = batch["train"], batch["search"]
        move_alphas = self.current_epoch - self.began >= self.warmup_epochs and self.closed.frozen is None
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
        mixtures = self._drawn_mixtures("train")
        if not with_alphas:
            mixtures = {name: mixture.detached() for name, mixture in mixtures.items()}
        logits = self._logits(batch[0], mixtures, None)
        loss = F.cross_entropy(logits, batch[1])
        objective = loss + self._penalty() if with_alphas else loss
        for regularizer in self.regularizers:
            term = regularizer.weight_penalty(WeightStep(batch[0], logits, self._virtual))
            objective = objective if term is None else objective + term
        if self.trainer.world_size > 1:
            # data parallelism waits for a gradient of every parameter, and these have none here
            idle = self.parameters() if self.untouched is not None else self.alpha_list
            objective = objective + 0.0 * torch.stack([p.sum() for p in idle]).sum()
        optimizer.zero_grad()
        for alpha in self.alpha_list:
            alpha.grad = None
        self.manual_backward(objective)
        optimizer.step()
        if self.untouched is not None:
            self.untouched.restore(optimizer.optimizer)
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
        if self.untouched is not None and optimizer is self.trainer.optimizers[0]:
            self.untouched.keep(optimizer)
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
            mixtures = self.mixtures()
        self.history.append({name: mixture.operations.clone().cpu() for name, mixture in mixtures.items()})
        for regularizer in self.regularizers:
            regularizer.after_epoch(self.supernet, mixtures)
        for name, alphas in self.closed.alphas(dict(self.alphas)).items():
            self.log(
                f"search/entropy_{name}", torch.special.entr(alphas.detach().softmax(1)).sum(1).mean(), sync_dist=True
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of the supernet on Lightning's validation set."""
        logits = self(batch[0])
        accuracy = (logits.argmax(1) == batch[1]).float().mean()
        values = {"val/loss": F.cross_entropy(logits, batch[1]), "val/accuracy": accuracy}
        self.log_dict(values, prog_bar=True, batch_size=len(batch[1]), sync_dist=True)

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
        self.found = self.trainer.strategy.broadcast(self.discretize())
        folder = output_folder(self.trainer, self.output_dir)
        if self.trainer.is_global_zero:
            self.outputs |= write_search(self, folder, self.found)

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
        check_schedulers(schedulers)
        return optimizers, schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history of the factors, and what was taken away.

        Raises:
            TrainingError: A loss or a parameter is not finite.
        """
        self.means.save(self, checkpoint)
        checkpoint["alpha_history"] = self.history
        supernet_changes.note(self, checkpoint)
        checkpoint["regularizers"] = [regularizer.state_dict() for regularizer in self.regularizers]
        checkpoint["regularizer_classes"] = [type(regularizer).__name__ for regularizer in self.regularizers]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history of the factors back.

        Raises:
            CheckpointError: The checkpoint is of another supernet, or of other regularizers.
        """
        own = [type(regularizer).__name__ for regularizer in self.regularizers]
        saved = checkpoint.get("regularizer_classes")
        if saved != own:
            raise CheckpointError(
                f"The checkpoint is of a search with the regularizers {saved!s:.200}, this one has {own}. Give it the "
                "same, or begin without the checkpoint."
            )
        supernet_changes.follow(self, checkpoint)
        check_state(self, checkpoint)
        self.history = list(checkpoint["alpha_history"])
        self.means.load(self, checkpoint)
        for regularizer, state in zip(self.regularizers, checkpoint["regularizers"], strict=True):
            regularizer.load_state_dict(state)
