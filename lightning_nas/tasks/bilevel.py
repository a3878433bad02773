"""Bi-level differentiable search."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.data.sets import classes_of
from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.hypergradient.base import BilevelProblem, Hypergradient
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.objective import SearchObjective
from lightning_nas.differentiable.perturbation.base import Perturbation
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.runner import Compile
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.convert import inherit_optimizer
from lightning_nas.spaces.supernet import Supernet
from lightning_nas.tasks.base import MIXED, Task, check_alone
from lightning_nas.tasks.class_weights import ClassWeights, check_class_weights, check_weights_for, make_class_weights
from lightning_nas.tasks.common import (
    Batch,
    EpochMeans,
    check_state,
    fixed_images,
    gradient_scaler,
    halves_of,
    kept,
    log_validation,
    loss_scale,
    output_folder,
    reaching,
    remaining_scale,
)
from lightning_nas.tasks.course import steps_per_epoch
from lightning_nas.tasks.optimization import configure_several, step_schedules
from lightning_nas.tasks.search_files import check_supernet_file, start_from, write_search
from lightning_nas.terminal import Progress


class BilevelTask(Task):
    """Searches by gradients: alphas follow the search half of the training data, weights the train half, in turns.

    Every batch ``{"train": (images, labels), "search": (images, labels)}`` has two phases. First the hypergradient of
    the loss on the search half moves the alphas, then the gradient of the loss on the train half moves the weights.
    Without any further component this is DARTS.

    The alphas belong to the second optimizer alone. Both forward passes move the batch-norm statistics; selection
    errors are measured with batch statistics. With several processes, each normalises by its own part of the batch and
    takes over the running statistics of the main one. At the end of ``fit`` the task writes ``architecture.json`` and
    ``alphas.safetensors`` (the factors after every epoch).

    References:
        1. Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, https://arxiv.org/abs/1806.09055

    Attributes:
        model: Supernet, alphas, and how they become mixtures.
        found: The architecture at the end of ``fit``; the main process decides for all.
        returned: Epoch and architecture that a callback chose in place of the present one; None, the default, if none
            did. Selection errors, which belong to the present one, are then not measured.
        outputs: Files that the run has written, by kind of artifact; on the main process only.
        start_epoch: Epoch in which the present supernet was new; the warm-up counts from here.
        search_epochs: Number of epochs after which the search is over, although the training goes on; None, the
            default, if they end together.

    Args:
        space: The search space.
        hypergradient: Gradient that the alphas follow.
        discretizer: Reads the found architecture from the alphas.
        weight_optimizer: Optimizer of the network weights (DARTS: SGD, lr 0.025, momentum 0.9, weight decay 3e-4).
        alpha_optimizer: Optimizer of the alphas (DARTS: Adam, lr 3e-4, betas 0.5 and 0.999, weight decay 1e-3).
        weight_scheduler: Schedule of the weights' learning rate, one step per epoch (DARTS: cosine down to 0.001).
        alpha_scheduler: Schedule of the alphas' learning rate, one step per epoch (DARTS: none).
        relaxation: Turns the alphas of an edge into factors; the softmax of DARTS by default.
        attention: Weights channels inside the supernet (DARTS: none).
        normalization: Makes the factors of different edges comparable (DARTS: none).
        regularizers: Terms of the alphas' loss, or of the weights' (DARTS: none).
        perturbation: Moves the factors in the steps of the weights (DARTS: none).
        warmup_epochs: Epochs at the start in which only the weights move.
        weight_clip_norm: Largest norm of the weights' gradient (DARTS: 5); 0 does not clip.
        alpha_scale: Standard deviation of the initial alphas (DARTS: 1e-3).
        selection_images: Largest number of images of the search half that a decision takes where selection errors are
            measured at the end; clear ones take fewer. 0 skips the measurement.
        seed: Seed of the initial alphas, of the relaxation's draws and of the choice of those images.
        output_dir: Folder of the artifacts; the folder of this run's logger by default.
        supernet_path: ``supernet.safetensors`` of a search whose weights and alphas this one starts from.
        write_supernet: Whether to write ``supernet.safetensors``, with the alphas, at the end.
        channels_last: Memory layout with channels innermost; see ``SupernetRunner``.
        checkpoint_cells: Whether to save memory by computing cells again in the backward pass; see ``SupernetRunner``.
        compile: True compiles every cell; ``graphs`` replays the passes of a step as CUDA graphs.
        num_classes: Number of classes; the command line takes it from the data.
        image_shape: ``(channels, height, width)`` of an image; the command line takes it from the data.
        class_weights: Weights of the classes in the cross-entropies of both halves: one number above 0 per class, or
            ``balanced`` by the labels of the train half; see ``TrainTask``. All classes count alike by default.

    Raises:
        ConfigError: A number is negative, or components do not go together.

    Example:
        ```yaml
        model:
          class_path: BilevelTask
          init_args:
            space: {class_path: DARTSSpace, init_args: {channels: 16, cells: 8}}
            hypergradient: FirstOrder
            discretizer: SoftmaxScore
            weight_optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.025, momentum: 0.9}}
            alpha_optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.0003}}
        ```
    """

    writes: tuple[str, ...] = ("architecture.json", "alphas.safetensors")
    metrics_logged: tuple[str, ...] = (
        *("train/loss", "train/accuracy", "search/loss", "search/accuracy", "search/entropy_*"),
        *("val/loss", "val/accuracy"),
    )
    precisions = (*MIXED, "64-true")
    overfits = True
    clip_option = "--model.weight_clip_norm"

    def __init__(
        self,
        space: DifferentiableSpace,
        *,
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
        perturbation: Perturbation | None = None,
        warmup_epochs: int = 0,
        weight_clip_norm: float = 5.0,
        alpha_scale: float = 1e-3,
        selection_images: int = 2048,
        seed: int = 0,
        output_dir: str | None = None,
        supernet_path: str | None = None,
        write_supernet: bool = False,
        channels_last: bool = True,
        checkpoint_cells: bool = False,
        compile: Compile = False,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        class_weights: ClassWeights | None = None,
    ) -> None:
        super().__init__()
        check_class_weights(class_weights, num_classes)
        at_least(0, warmup_epochs=warmup_epochs, weight_clip_norm=weight_clip_norm)
        at_least(0, alpha_scale=alpha_scale, selection_images=selection_images)
        check_supernet_file(attention, supernet_path, write_supernet)
        self.automatic_optimization = False
        self.hypergradient = hypergradient
        self.make_optimizers = (weight_optimizer, alpha_optimizer)
        self.make_schedulers = (weight_scheduler, alpha_scheduler)
        self.regularizers = regularizers or []
        self.warmup_epochs = warmup_epochs
        self.weight_clip_norm = weight_clip_norm
        self.selection_images = selection_images
        self.seed = seed
        self.output_dir = output_dir
        self.write_supernet = write_supernet
        if write_supernet:
            self.writes = (*self.writes, "supernet.safetensors", "supernet.json")
        self.model = SearchModel(
            space,
            discretizer,
            relaxation=relaxation,
            normalization=normalization,
            attention=attention,
            num_classes=num_classes,
            image_shape=image_shape,
            alpha_scale=alpha_scale,
            seed=seed,
            channels_last=channels_last,
            checkpoint_cells=checkpoint_cells,
            compile=compile,
        )
        hypergradient.check(self.model, self.regularizers)
        if perturbation is not None:
            perturbation.check(self.model, hypergradient)
        if supernet_path is not None:
            start_from(self.model, supernet_path)
        self.objective = SearchObjective(self.model, self.regularizers, seed, perturbation)
        self.class_weights = class_weights
        self.num_classes = num_classes
        self.model.observers.append(self._follow)
        self.start_epoch = 0
        self.search_epochs: int | None = None
        self.history: list[dict[str, Tensor]] = []
        self.means = EpochMeans()
        self.found: Architecture | None = None
        self.returned: tuple[int, Architecture] | None = None
        self.outputs: dict[str, list[Path]] = {}

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any], data: Any) -> None:
        """Refuse class weights that do not fit the data; see ``Task.check_arguments``."""
        check_weights_for(arguments.get("class_weights"), data)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of the supernet with its present factors."""
        return self.model.logits(x, self.model.mixtures())

    @property
    def follows_course(self) -> str:
        """What may change: draws of the relaxation, regularizers, the perturbation; see ``Task.follows_course``."""
        relaxation, perturbation = self.model.relaxation, self.objective.perturbation
        changing = [relaxation] if type(relaxation).drawn is not Relaxation.drawn else []
        moving = [] if perturbation is None else [perturbation]
        names = [type(part).__name__ for part in (*changing, *self.regularizers, *moving)]
        return f"{names} may change in the course of the search" if names else ""

    @property
    def components(self) -> list[Any]:
        """The exchangeable parts of the method, which ``architecture.json`` names."""
        model, perturbation = self.model, self.objective.perturbation
        parts = (self.hypergradient, model.relaxation, model.normalization, model.discretizer, *self.regularizers)
        return [part for part in (*parts, perturbation) if part is not None]

    @property
    def course_steps(self) -> int | None:
        """Number of steps until the search is over: of all phases together, and of ``search_epochs`` only."""
        steps = self.total_steps
        if self.search_epochs is None or math.isinf(self.trainer.num_training_batches):
            return steps
        searching = self.search_epochs * steps_per_epoch(self.trainer)
        return searching if steps is None else min(steps, searching)

    @property
    def warming_up(self) -> bool:
        """Whether only the weights move in this epoch, because the supernet is too new."""
        return self.current_epoch - self.start_epoch < self.warmup_epochs

    @property
    def alphas_move(self) -> bool:
        """Whether the alphas are trained in this epoch."""
        return not self.warming_up and not self.model.frozen

    def setup(self, stage: str) -> None:
        """Start the means of the epoch anew."""
        self.means.clear()

    def on_fit_start(self) -> None:
        """Refuse a trainer that the search cannot follow.

        Raises:
            ConfigError: The device, the precision or the number of processes does not fit.
        """
        self.model.runner.check(self.device, str(self.trainer.precision), self.trainer.world_size)
        self.objective.mean = partial(self.trainer.strategy.reduce, reduce_op="mean")
        self.objective.class_weights = make_class_weights(self.class_weights, self, self.num_classes)

    # -- the step -------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """Move the alphas, then the weights."""
        weight_optimizer, alpha_optimizer = self.optimizers()  # type: ignore[attr-defined]  # see configure_optimizers
        train, search = halves_of(batch)
        move_alphas, one_level = self.alphas_move, self.hypergradient.one_level
        if one_level:
            train = (torch.cat([train[0], search[0]]), torch.cat([train[1], search[1]]))
        elif move_alphas:
            gradients = self.hypergradient.gradient(self._problem(weight_optimizer.optimizer), train, search)
            for alpha, gradient in zip(self.model.alpha_list, gradients, strict=True):
                alpha.grad = gradient
            alpha_optimizer.step()
        alpha_optimizer.zero_grad()
        before = loss_scale(self.trainer)
        self._move_weights(train, weight_optimizer, with_alphas=one_level and move_alphas)
        if one_level and move_alphas:
            change = loss_scale(self.trainer) / before  # the weights' step may have changed the scale of this gradient
            for alpha in self.model.alpha_list:
                alpha.grad = alpha.grad * change if alpha.grad is not None and change != 1 else alpha.grad
            alpha_optimizer.step()

    def _problem(self, optimizer: Optimizer) -> BilevelProblem:
        self.objective.move_to(self.progress, self.global_step)
        return self.objective.problem(
            step=self.hypergradient.unrolled_step(optimizer, self.model.weights),
            mean=partial(self.trainer.strategy.reduce, reduce_op="mean"),
            scaler=gradient_scaler(self.trainer),
            record=partial(self._record, "search"),
        )

    def _record(self, half: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        accuracy = (logits.argmax(1) == classes_of(labels)).float().mean()
        self.means.add({f"{half}/loss": loss, f"{half}/accuracy": accuracy}, len(labels))

    def _move_weights(self, batch: Batch, optimizer: LightningOptimizer, *, with_alphas: bool) -> None:
        self.objective.move_to(self.progress, self.global_step)
        total, loss, logits = self.objective.weight_loss(batch, with_alphas=with_alphas)
        idle = self.parameters() if self.model.guard is not None else self.model.alpha_list
        optimizer.zero_grad()
        self.manual_backward(reaching(total, idle, self.trainer))
        optimizer.step()
        if self.model.guard is not None:
            self.model.guard.after_step(optimizer.optimizer)
        self._record("train", loss, logits, batch[1])

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the weights' gradient, which a gradient scaler has unscaled by now."""
        if optimizer is not self.trainer.optimizers[0]:
            return
        if self.model.guard is not None:
            self.model.guard.before_step(optimizer)
        if self.weight_clip_norm:
            scale = remaining_scale(self.trainer, optimizer)
            torch.nn.utils.clip_grad_norm_(list(self.model.weights.values()), self.weight_clip_norm * scale)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Step schedules that step after every batch, and stop at a loss that is not finite."""
        step_schedules(self.schedules, "step", self.trainer.callback_metrics)
        self.means.check(self, batch_idx)

    def on_train_epoch_end(self) -> None:
        """Log the means, step the schedulers and keep the factors of this epoch."""
        self.means.log(self)
        step_schedules(self.schedules, "epoch", self.trainer.callback_metrics)
        with torch.no_grad():
            mixtures = self.model.mixtures()
        self.history.append({name: mixture.operations.clone().cpu() for name, mixture in mixtures.items()})
        self.objective.after_epoch(mixtures)
        self.log_dict({f"search/entropy_{name}": e for name, e in self.model.entropies().items()}, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy of the supernet on Lightning's validation set."""
        log_validation(self, self(batch[0]), batch[1])

    # -- results --------------------------------------------------------------------------------------------------

    def on_train_end(self) -> None:
        """Write the artifacts."""
        self._finish()

    def on_fit_end(self) -> None:
        """Write the artifacts of a run that was resumed after its last epoch."""
        if self.found is None:
            self._finish()

    def provenance(self) -> dict[str, Any]:
        """How the architecture was found, for ``architecture.json``."""
        model, errors = self.model, None
        epoch, found = self.returned or (None, model.discretize())
        images = self.selection_images if epoch is None else 0
        if images and hasattr(getattr(self.trainer, "datamodule", None), "fixed_batch"):
            told = Progress("selection errors, removals").reach
            errors = model.selection_errors(*fixed_images(self, images, self.seed), told).to_dict()
        return {
            "task": type(self).__name__,
            "components": [type(component).__name__ for component in self.components],
            "text": model.space.text(found),
            "epochs": self.trainer.current_epoch,
            **({} if epoch is None else {"architecture_epoch": epoch}),
            "seed": self.seed,
            "selection_errors": errors,
        }

    def _finish(self) -> None:
        _, found = self.returned or (None, self.model.discretize())
        self.found = self.trainer.strategy.broadcast(found)
        folder = output_folder(self.trainer, self.output_dir)
        if self.trainer.is_global_zero:
            made, history = self.provenance(), self.history
            self.outputs |= write_search(folder, self.found, self.model, history, made, supernet=self.write_supernet)

    def _follow(self, before: Supernet, new: bool) -> None:
        """Let the optimizers follow a change of the model's supernet."""
        trainer = self._trainer
        if trainer is None or not trainer.optimizers:
            return
        if trainer.training:
            check_alone(trainer)
        if new:
            self.start_epoch = self.current_epoch
            trainer.strategy.setup_optimizers(trainer)
        else:
            inherit_optimizer(trainer.optimizers[0], self.model.supernet, before)

    # -- optimizers and checkpoints -------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Weights first, alphas second: checkpoints keep them by position."""
        parameters = {"weight": self.model.supernet.parameters(), "alpha": self.model.alpha_list}
        optimizers, self.schedules = configure_several(
            parameters, self.make_optimizers, self.make_schedulers, self._trainer
        )
        self.hypergradient.unrolled_step(optimizers[0], self.model.weights)  # refuses what it cannot unroll
        return optimizers, [schedule["scheduler"] for schedule in self.schedules]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history of the factors, the form of the supernet and the state of the regularizers.

        Raises:
            TrainingError: A loss or a parameter is not finite.
        """
        self.means.save(self, checkpoint)
        checkpoint["alpha_history"] = self.history
        checkpoint["search_model"], checkpoint["start_epoch"] = self.model.save_state(), self.start_epoch
        checkpoint["objective"] = self.objective.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them, before Lightning loads the weights.

        Raises:
            CheckpointError: The checkpoint belongs to another task or supernet, or has other regularizers.
        """
        self.model.load_state(kept(self, checkpoint, "search_model"))
        self.start_epoch = checkpoint["start_epoch"]
        self.objective.attach()
        self.objective.load_state_dict(checkpoint["objective"])
        check_state(self, checkpoint)
        self.history = list(checkpoint["alpha_history"])
        self.means.load(self, checkpoint)
