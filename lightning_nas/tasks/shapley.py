"""Shapley-NAS: alphas that follow the contributions of operations to the accuracy of the supernet."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.checks import integer_at_least, within
from lightning_nas.data.splits import derived_seed
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.shapley import sampled_contributions
from lightning_nas.spaces.supernet import Supernet
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import check_fixed_images, fixed_images, kept
from lightning_nas.terminal import Progress

Player = tuple[str, int, int]
"""Cell type, edge and operation as indices into the alphas."""


class ShapleyTask(BilevelTask):
    """Searches by Shapley values: alphas follow what operations contribute to the accuracy, not a gradient.

    Every operation of every edge is a player. At the start of every epoch after the warm-up, the players are removed
    from the supernet in ``samples`` random orders, each measured on other images of the search half with batch
    statistics; a factor that is removed is 0, and all others stay. What the accuracy falls by is the contribution of
    the player, and an order ends when the accuracy is below ``truncation`` of that of the whole supernet. The mean over
    the orders minus their standard deviation is standardized within each cell type, ``v = (x - mean) / std``, and
    averaged over epochs: ``s = momentum * s + (1 - momentum) * v``. The optimizer of the alphas takes a step along
    ``s``: with SGD, ``alpha = alpha + lr * s``. The weights are trained as in ``BilevelTask``, in all epochs.

    This is the authors' code; the paper divides by norms instead. There, ``s`` starts from small noise instead of 0.
    The alphas have no loss, so that only regularizers with a term of the weights' loss are of use. Every process takes
    over what the main one has found. An epoch costs up to ``samples`` times the number of players passes without
    gradients.

    References:
        1. Xiao et al.: Shapley-NAS: Discovering Operation Contribution for Neural Architecture Search, CVPR 2022,
           https://arxiv.org/abs/2206.09811

    Attributes:
        players: The operations that the space allows.
        values: Averaged contributions by cell type, shaped like the alphas.

    Args:
        samples: Number of random orders per epoch, at least 1 (the authors' code: 10).
        truncation: Fraction of the accuracy of the whole supernet below which an order ends, in [0, 1] (the authors'
            code: 0.5).
        momentum: Weight of the contributions of earlier epochs, in [0, 1) (the authors' code: 0.8).
        measured_images: Number of images of an order, at least 2 (the authors' code: 1,024).
        warmup_epochs: Epochs at the start in which only the weights move (the authors' code: 25 of 50).
        **options: All other arguments of ``BilevelTask``, except ``hypergradient``.

    Raises:
        ConfigError: A number is out of its range, or components do not go together.

    Example:
        ```yaml
        model:
          class_path: ShapleyTask
          init_args:
            space: {class_path: DARTSSpace, init_args: {channels: 16, cells: 8}}
            discretizer: SoftmaxScore
            weight_optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9}}
            alpha_optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}
        ```
    """

    metrics_logged = tuple(
        name for name in BilevelTask.metrics_logged if name not in ("search/loss", "search/accuracy")
    )

    def __init__(
        self,
        *,
        samples: int = 10,
        truncation: float = 0.5,
        momentum: float = 0.8,
        measured_images: int = 1024,
        warmup_epochs: int = 25,
        **options: Any,
    ) -> None:
        integer_at_least(1, samples=samples)
        integer_at_least(2, measured_images=measured_images)
        within("[0, 1]", truncation=truncation)
        within("[0, 1)", momentum=momentum)
        super().__init__(hypergradient=FirstOrder(), warmup_epochs=warmup_epochs, **options)
        model = self.model
        if model.edge_alphas:
            raise ConfigError(
                f"{type(model.normalization).__name__} has an alpha per edge, which is not a player and would never "
                "move. Leave the normalization out of a ShapleyTask."
            )
        if model.relaxation.hard:
            raise ConfigError(
                f"{type(model.relaxation).__name__} computes one operation per edge, but a ShapleyTask removes one "
                "after the other of all. Use Softmax as the relaxation."
            )
        for regularizer in self.regularizers:
            if not regularizer.weight_term:
                name = type(regularizer).__name__
                raise ConfigError(
                    f"{name} adds a term to the loss of the alphas, which have none in a ShapleyTask. Leave {name} out."
                )
        self.samples = samples
        self.truncation = truncation
        self.momentum = momentum
        self.measured_images = measured_images
        self.values = {name: torch.zeros(alphas.shape) for name, alphas in model.alphas.items()}

    @property
    def players(self) -> list[Player]:
        """The operations that the space allows."""
        allowed = self.model.space.allowed
        return [(name, edge, o) for name, mask in allowed.items() for edge, o in mask.nonzero().tolist()]

    @property
    def alphas_move(self) -> bool:
        """Never by gradients."""
        return False

    @property
    def components(self) -> list[Any]:
        """The exchangeable parts of the method; the alphas follow no hypergradient."""
        return [part for part in super().components if part is not self.hypergradient]

    def on_fit_start(self) -> None:
        """Refuse a training in which the alphas would never move, and data without fixed images.

        Raises:
            ConfigError: One of both, or what ``BilevelTask`` refuses.
        """
        super().on_fit_start()
        epochs = self.trainer.max_epochs or -1
        if 0 < epochs <= self.warmup_epochs and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ConfigError(
                f"trainer.max_epochs is {epochs}, but the alphas do not move in the first {self.warmup_epochs} epochs, "
                f"the warm-up. Set trainer.max_epochs to more than warmup_epochs, {self.warmup_epochs}, or lower "
                "warmup_epochs."
            )
        check_fixed_images("A ShapleyTask", self.trainer)

    def on_train_epoch_start(self) -> None:
        """Move the alphas, after the warm-up."""
        if self.warming_up or self.model.frozen:
            return
        found = self.trainer.strategy.broadcast(self.contributions())
        optimizer = self.trainer.optimizers[1]
        for name, alphas in self.model.alphas.items():
            self.values[name] = self.momentum * self.values[name] + (1 - self.momentum) * found[name]
            alphas.grad = -self.values[name].to(alphas)
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def contributions(self) -> dict[str, Tensor]:
        """What each operation contributes now, without offset and scale, by cell type and shaped like the alphas."""
        players, seed = self.players, derived_seed(self.seed, "shapley", self.current_epoch)
        progress = Progress("contributions of operations, removals", self.samples * (len(players) + 1))
        batches = [fixed_images(self, self.measured_images, seed + sample) for sample in range(self.samples)]

        def value(sample: int, removed: Sequence[int]) -> float:
            progress.step()
            return self._accuracy(batches[sample], [players[i] for i in removed])

        found = sampled_contributions(
            len(players),
            value,
            samples=self.samples,
            truncation=self.truncation,
            generator=torch.Generator().manual_seed(seed),
        )
        scores = found.mean(0) - found.std(0, correction=0)
        return {name: _standardized(name, scores, players, shape.shape) for name, shape in self.values.items()}

    def _accuracy(self, batch: tuple[Tensor, Tensor], removed: Sequence[Player]) -> float:
        """Accuracy of the supernet without some operations."""
        mixtures = self.model.mixtures()
        operations = {name: mixture.operations.clone() for name, mixture in mixtures.items()}
        for name, edge, operation in removed:
            operations[name][edge, operation] = 0
        without = {name: mixture._replace(operations=operations[name]) for name, mixture in mixtures.items()}
        return self.model.loss_and_accuracy(*batch, without)[1]

    def _follow(self, before: Supernet, new: bool) -> None:
        """Start the contributions anew with a new supernet; see ``BilevelTask``."""
        super()._follow(before, new)
        if new:
            self.values = {name: torch.zeros_like(values) for name, values in self.values.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the contributions; see ``BilevelTask.on_save_checkpoint``."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["shapley_values"] = dict(self.values)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the contributions; see ``BilevelTask.on_load_checkpoint``."""
        super().on_load_checkpoint(checkpoint)
        self.values = dict(kept(self, checkpoint, "shapley_values"))


def _standardized(cell: str, scores: Tensor, players: Sequence[Player], shape: torch.Size) -> Tensor:
    """The scores of one cell type without offset and scale; 0 for what is not a player, or if all are equal."""
    mine = [i for i, player in enumerate(players) if player[0] == cell]
    given = scores[mine]
    spread = given.std() if len(mine) > 1 else torch.zeros(())
    found = torch.zeros(shape)
    if spread > 0:
        rows, columns = zip(*(players[i][1:] for i in mine), strict=True)
        found[list(rows), list(columns)] = ((given - given.mean()) / spread).float()
    return found
