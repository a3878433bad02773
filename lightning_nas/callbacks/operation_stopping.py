"""OLES: operations whose weights over-fit stop training."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_nas.checks import integer_at_least, within
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.spaces.supernet import Supernet
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import halves_of

Owner = tuple[int, str, int, int]
"""Index of the layer, cell type, edge and operation."""


class OperationStopping(Callback):
    """Stops training the weights of an operation when its gradients on the two halves of the data part.

    In every step, each operation of each cell has two gradients of its weights: that of the loss on a batch of the
    search half, before the step of the alphas, and that of the step of the weights. While an operation learns what both
    halves share, they point in similar directions. Their cosine is averaged over ``steps`` steps; if the mean is below
    ``threshold``, the operation over-fits its half, and its weights stay as they are for the rest of the search. The
    alphas go on. Operations without weights never stop, so that they no longer win only because they cannot over-fit.

    The logged ``oles/stopped`` is the fraction of the operations with weights that have stopped. The gradient on the
    search half costs one more pass per step, without moving batch-norm statistics. As in the paper, the cosine is that
    of all weights of an operation together; the authors' code averages the cosines of its tensors along their first
    dimension, and compares the gradient on the search half with that of the step before. No other callback may replace
    the supernet or remove operations, which a callback tells by the class attribute ``changes_supernet = True``, and
    the alphas must follow a loss of their own.

    References:
        1. Jiang, Ji, Zhu, Wang, Yuan, Huang: Operation-Level Early Stopping for Robustifying Differentiable NAS,
           NeurIPS 2023, https://arxiv.org/abs/2310.02576

    Attributes:
        owners: The operations with weights, in the order of ``stopped``.
        stopped: Which of them have stopped, bool ``(operations + 1,)``, and False at the end for what belongs to none;
            empty before the training.

    Args:
        threshold: Mean cosine below which an operation stops, in [-1, 1] (the authors' code: 0.4).
        steps: Number of steps that the cosine is averaged over, at least 1 (the authors' code: 20).

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        trainer:
          callbacks: [{class_path: OperationStopping, init_args: {threshold: 0.4, steps: 20}}]
        ```
    """

    metrics_logged = ("oles/stopped",)

    def __init__(self, threshold: float = 0.4, *, steps: int = 20) -> None:
        within("[-1, 1]", threshold=threshold)
        integer_at_least(1, steps=steps)
        self.threshold = threshold
        self.steps = steps
        self.owners: list[Owner] = []
        self.stopped = torch.zeros(0, dtype=torch.bool)
        self.places: dict[str, Tensor] = {}
        self.held: dict[str, Tensor] = {}
        self.search_gradients: dict[str, Tensor] = {}
        self.sums, self.counts = torch.zeros(0), torch.zeros(0)
        self.measured = 0
        self.loaded: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a search whose operations cannot be stopped.

        Raises:
            ConfigError: The task is not a bi-level search, weights and alphas follow the same loss, or another callback
                replaces the supernet or removes operations.
        """
        hypergradient = _search(pl_module).hypergradient
        if hypergradient.one_level:
            raise ConfigError(
                "OperationStopping compares the gradients of the weights on the two halves, but with "
                f"{type(hypergradient).__name__} the weights follow both halves together. Use FirstOrder, or leave "
                "OperationStopping out."
            )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if getattr(callback, "changes_supernet", False):
                raise ConfigError(_CHANGED.format(type(callback).__name__))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the weights of every operation, which are on their device and loaded by now.

        Raises:
            ConfigError: No operation has weights.
            CheckpointError: A checkpoint has other operations.
        """
        task = _search(pl_module)
        task.model.observers.append(_refuse_change)
        self.owners, places = operation_places(task.model.supernet)
        if not self.owners:
            raise ConfigError(
                f"OperationStopping stops the weights of operations, but none of {list(task.model.space.operations)} "
                "has any. Leave it out of trainer.callbacks, or add operations with weights to the space."
            )
        device = next(task.model.supernet.parameters()).device
        self.places = {name: place.to(device) for name, place in places.items()}
        zeros = torch.zeros(len(self.owners) + 1, dtype=torch.float32, device=device)
        self.stopped, self.sums, self.counts = zeros.bool(), zeros.clone(), zeros.clone()
        self.measured = 0
        if self.loaded:
            if len(self.loaded["stopped"]) != len(zeros):
                raise CheckpointError(
                    f"The checkpoint has {len(self.loaded['stopped']) - 1} operations with weights, this supernet "
                    f"{len(self.owners)}. Use the space of the run that wrote it."
                )
            self.stopped, self.sums, self.counts = (
                self.loaded[name].to(device) for name in ("stopped", "sums", "counts")
            )
            self.measured = self.loaded["measured"]
        self.held = {name: task.model.weights[name].detach().clone() for name in self.places}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the gradient of the weights on the search half."""
        task = _search(pl_module)
        task.objective.move_to(task.progress, task.global_step)
        weights = {name: task.model.weights[name] for name in self.places}
        loss = task.objective.search_loss(halves_of(batch)[1], task.model.weights)
        found = torch.autograd.grad(loss, tuple(weights.values()), allow_unused=True)
        given = {n: g for n, g in zip(weights, found, strict=True) if g is not None}
        if not given:  # a hard relaxation has drawn no operation with weights
            self.search_gradients = {}
            return
        # one tensor, because processes average one tensor at a time
        mean = task.objective.mean(torch.cat([g.float().flatten() for g in given.values()]))
        parts = mean.split([g.numel() for g in given.values()])
        self.search_gradients = dict(zip(given, parts, strict=True))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Compare it with the gradient of the step of the weights, and stop operations every ``steps`` steps."""
        if optimizer is not trainer.optimizers[0] or not self.search_gradients:
            return
        weights = _search(pl_module).model.weights
        moments = self.sums.new_zeros(3, len(self.stopped))
        for name, first in self.search_gradients.items():
            second = weights[name].grad
            if second is not None:
                other = second.detach().float().flatten()
                products = torch.stack([first * other, first * first, other * other])
                moments.index_add_(1, self.places[name].flatten(), products)
        cosines = moments[0] / (moments[1].sqrt() * moments[2].sqrt())
        known = cosines.isfinite()  # unknown where an operation has no gradient, or an overflowing one
        self.sums += torch.where(known, cosines, 0.0)
        self.counts += known
        self.search_gradients = {}
        self.measured += 1
        if self.measured == self.steps:
            stopping = (self.counts > 0) & (self.sums / self.counts.clamp(min=1) < self.threshold)
            stopping[-1] = False  # what belongs to no operation
            for name, place in self.places.items():  # the weights of an operation before its last step
                kept = self.stopped[place]
                self.held[name] = torch.where(kept, self.held[name], weights[name].detach())
            self.stopped = self.stopped | stopping
            self.sums, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
            self.measured = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Put the weights of stopped operations back."""
        weights = _search(pl_module).model.weights
        with torch.no_grad():
            for name, place in self.places.items():
                weights[name].copy_(torch.where(self.stopped[place], self.held[name], weights[name]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how many operations have stopped."""
        pl_module.log("oles/stopped", self.stopped[:-1].float().mean(), sync_dist=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the supernet be changed again."""
        if isinstance(pl_module, BilevelTask):
            observers = pl_module.model.observers
            observers[:] = [observer for observer in observers if observer is not _refuse_change]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let the supernet be changed again, because nothing is torn down after an error."""
        self.teardown(trainer, pl_module, "fit")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the weights of stopped operations as they stay, even if the step has already moved them."""
        state = checkpoint["state_dict"]
        for name, place in self.places.items():
            key = f"model.supernet.{name}"
            moved = state[key].to(place.device)
            state[key] = torch.where(self.stopped[place], self.held[name], moved).to(state[key].device)

    def state_dict(self) -> dict[str, Any]:
        """The stopped operations, and the cosines since the last decision."""
        if not self.owners:
            return {}
        tensors = {"stopped": self.stopped, "sums": self.sums, "counts": self.counts}
        return {**tensors, "measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.loaded = dict(state_dict)


def operation_places(supernet: Supernet) -> tuple[list[Owner], dict[str, Tensor]]:
    """The operations of a supernet that have weights, and which of them every weight belongs to.

    Args:
        supernet: The supernet.

    Returns:
        The operations of all layers, and for every parameter that holds some of their weights, indices of its shape
        into them; weights of no operation have the index after the last one.
    """
    parameters = dict(supernet.named_parameters())
    layers = {id(p): i for i, cell in enumerate(supernet.cells) for p in cell.parameters()}
    owners: dict[Owner, int] = {}
    parts: list[tuple[str, tuple[int, ...], tuple[int | slice, ...], int]] = []
    for public, name, full, index, _ in supernet.per_edge():
        owner = supernet.owner(public)
        if owner is not None and name in parameters:
            key = (layers[id(parameters[name])], *owner)
            parts.append((name, full, index, owners.setdefault(key, len(owners))))
    places = {name: torch.full(parameters[name].shape, len(owners)) for name, *_ in parts}
    for name, full, index, number in parts:
        places[name].view(full)[index] = number
    return list(owners), places


_CHANGED = (
    "OperationStopping holds the weights of the supernet that the search started with, but {} replaces them. Leave one "
    "of the two out."
)


def _refuse_change(before: nn.Module, new: bool) -> None:
    raise ConfigError(_CHANGED.format("another callback"))


def _search(module: LightningModule) -> BilevelTask:
    if not isinstance(module, BilevelTask):
        raise ConfigError(
            f"OperationStopping looks at the operations of a BilevelTask, which {type(module).__name__} does not have. "
            "Leave it out of trainer.callbacks."
        )
    return module
