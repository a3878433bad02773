"""What the alphas and the weights of a differentiable search minimise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.data.splits import derived_seed
from lightning_nas.differentiable.hypergradient.base import Batch, BilevelProblem, VirtualStep, Weights
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.perturbation.base import Perturbation
from lightning_nas.differentiable.regularization.base import Regularizer, WeightStep
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.spaces.supernet import Mixture, Supernet


class WeightLoss(NamedTuple):
    """What one step of the weights minimises.

    Attributes:
        total: The loss with all its terms.
        loss: The cross-entropy alone.
        logits: The supernet's logits ``(batch, classes)``.
    """

    total: Tensor
    loss: Tensor
    logits: Tensor


class SearchObjective:
    """The losses of a search: cross-entropy on a batch plus the terms of the regularizers.

    Every forward pass of a step draws the relaxation's noise from a seed of its own, which depends on the phase and on
    the step alone: all processes, and a resumed run, draw the same.

    Attributes:
        progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
        step: Number of optimizer steps so far, those of both optimizers together.
        class_weights: Weights of the classes in every cross-entropy, ``(classes,)``; None if all count alike.
        mean: Averages a tensor over all processes; of a single one by default.

    Args:
        model: The model of the search.
        regularizers: Terms of the losses; they are attached to the model here.
        seed: Seed of the draws of the relaxation and of the perturbation.
        perturbation: Moves the factors in the steps of the weights; None, the default, leaves them alone.

    Raises:
        ConfigError: A regularizer does not go with the model.

    Example:
        ```python
        objective = SearchObjective(model, [BetaDecay()], seed=0)
        loss = objective.search_loss((images, labels)) + objective.penalty()
        gradients = torch.autograd.grad(loss, model.alpha_list)
        ```
    """

    def __init__(
        self,
        model: SearchModel,
        regularizers: Sequence[Regularizer],
        seed: int,
        perturbation: Perturbation | None = None,
    ) -> None:
        self.model = model
        self.perturbation = perturbation
        self.mean: Callable[[Tensor], Tensor] = _unchanged
        self.regularizers = regularizers
        self.seed = seed
        self.progress = 0.0
        self.step = 0
        self.class_weights: Tensor | None = None
        self.attach()
        model.observers.append(lambda before, new: self.attach())

    def attach(self) -> None:
        """Let the regularizers look at the model, because its supernet is new.

        Raises:
            ConfigError: A regularizer does not go with the model.
        """
        for regularizer in self.regularizers:
            regularizer.attach(self.model)

    def after_epoch(self, mixtures: Mapping[str, Mixture]) -> None:
        """Let the regularizers look at the model at the end of an epoch.

        Args:
            mixtures: Its present factors by cell type, without gradients.
        """
        for regularizer in self.regularizers:
            regularizer.after_epoch(self.model, mixtures)

    def move_to(self, progress: float, step: int) -> None:
        """Say where the search is.

        Args:
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
            step: Number of optimizer steps so far.
        """
        self.progress, self.step = progress, step

    def problem(
        self,
        step: VirtualStep | None,
        mean: Callable[[Tensor], Tensor],
        scaler: Any,
        record: Callable[[Tensor, Tensor, Tensor], None],
    ) -> BilevelProblem:
        """What a hypergradient works with in one step of the alphas.

        Args:
            step: The next step of the weights, if the hypergradient unrolls it.
            mean: Averages a tensor over all processes.
            scaler: Gradient scaler of 16-bit precision; None without one.
            record: Receives the cross-entropy, the logits and the labels of every batch of the search half.
        """

        def search_loss(batch: Batch, weights: Weights | None) -> Tensor:
            logits = self.search_logits(batch, weights)
            loss = self.cross_entropy(logits, batch[1])
            record(loss, logits, batch[1])
            total = loss + self.penalty()
            # the optimizer's step divides the gradient by the scale again
            return total if scaler is None else scaler.scale(total)

        return BilevelProblem(self.model.weights, self.model.alpha_list, self.train_loss, search_loss, step, mean)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with the weights of the classes.

        Args:
            logits: ``(batch, classes)``.
            labels: Labels ``(batch,)``, or probabilities ``(batch, classes)``.
        """
        return F.cross_entropy(logits, labels, weight=self.class_weights)

    def train_loss(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """Cross-entropy on a batch of the train half, differentiable in alphas and weights.

        Args:
            batch: Images and labels.
            weights: Weights to use instead of the supernet's own.
        """
        images, labels = batch
        return self.cross_entropy(self.model.logits(images, self._mixtures("train"), weights), labels)

    def search_loss(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """Cross-entropy on a batch of the search half, without ``penalty``.

        Args:
            batch: Images and labels.
            weights: Weights to use instead of the supernet's own; no gradient of the own ones will be asked for.
        """
        return self.cross_entropy(self.search_logits(batch, weights), batch[1])

    def search_logits(self, batch: Batch, weights: Weights | None = None) -> Tensor:
        """Logits ``(batch, classes)`` on a batch of the search half; see ``search_loss``."""
        return self.model.logits(batch[0], self._mixtures("search"), weights, frozen=True)

    def penalty(self) -> Tensor:
        """The regularizers' terms of the alphas' loss, a scalar."""
        alphas = self.model.masked_alphas(-torch.inf)
        terms = [_scalar(each, each.penalty(alphas, self.progress)) for each in self.regularizers]
        return torch.stack(terms).sum() if terms else self.model.alpha_list[0].new_zeros(())

    def weight_loss(self, batch: Batch, *, with_alphas: bool) -> WeightLoss:
        """The loss of the weights on a batch, with the regularizers' terms of it.

        Args:
            batch: Images and labels.
            with_alphas: Whether the alphas follow the same loss; their penalty is then a part of it.
        """
        images, labels = batch
        mixtures = self._mixtures("train")
        if not with_alphas:
            mixtures = {name: mixture.detached() for name, mixture in mixtures.items()}
        if self.perturbation is not None and not self.model.frozen:
            mixtures = self._perturbed(self.perturbation, mixtures, batch)
        logits = self.model.logits(images, mixtures)
        loss = self.cross_entropy(logits, labels)
        total = loss + self.penalty() if with_alphas else loss
        factors = {name: mixture.detached() for name, mixture in mixtures.items()} if self.regularizers else {}
        entropy = partial(self.cross_entropy, labels=labels)
        step = WeightStep(images, logits, self.model, factors, entropy, self.mean, self.progress)
        for regularizer in self.regularizers:
            term = regularizer.weight_penalty(step)
            total = total if term is None else total + _scalar(regularizer, term)
        return WeightLoss(total, loss, logits)

    def _perturbed(self, perturbation: Perturbation, mixtures: dict[str, Mixture], batch: Batch) -> dict[str, Mixture]:
        seed = derived_seed(self.seed, "perturbation", self.step)
        return perturbation.perturb(
            mixtures,
            self.model.mask.open(),
            partial(self._factor_gradients, batch),
            progress=self.progress,
            generator=torch.Generator().manual_seed(seed),
        )

    def _factor_gradients(self, batch: Batch, mixtures: Mapping[str, Mixture]) -> dict[str, Tensor]:
        """Gradient of a batch's cross-entropy by the factors of the operations, with the running statistics."""
        factors = {name: mixture.operations.detach().requires_grad_() for name, mixture in mixtures.items()}
        placed = {name: mixture._replace(operations=factors[name]) for name, mixture in mixtures.items()}
        with torch.enable_grad(), _running_statistics(self.model.supernet):
            loss = self.cross_entropy(self.model.logits(batch[0], placed, frozen=True), batch[1])
            # a small supernet may have no cell of some type
            found = torch.autograd.grad(loss, tuple(factors.values()), allow_unused=True, materialize_grads=True)
        return {name: self.mean(gradient) for name, gradient in zip(factors, found, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """The state of the regularizers, for a checkpoint."""
        return {
            "classes": [type(regularizer).__name__ for regularizer in self.regularizers],
            "states": [regularizer.state_dict() for regularizer in self.regularizers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: The state.

        Raises:
            CheckpointError: It belongs to other regularizers.
        """
        saved, own = state["classes"], [type(regularizer).__name__ for regularizer in self.regularizers]
        if saved != own:
            raise CheckpointError(
                f"The checkpoint belongs to a search with the regularizers {saved!s:.200}, this one has {own}. Give it "
                "the same, or start without the checkpoint."
            )
        for regularizer, each in zip(self.regularizers, state["states"], strict=True):
            regularizer.load_state_dict(each)

    def _mixtures(self, phase: str) -> dict[str, Mixture]:
        return self.model.drawn_mixtures(self.progress, derived_seed(self.seed, "relaxation", phase, self.step))


@contextmanager
def _running_statistics(supernet: Supernet) -> Iterator[None]:
    """Inside, the supernet normalises by its running statistics, which do not move."""
    modes = {part: part.training for part in supernet.modules()}
    supernet.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _unchanged(value: Tensor) -> Tensor:
    return value


def _scalar(regularizer: Regularizer, term: Any) -> Tensor:
    """A regularizer's term, refused if it is not a scalar tensor: a sum would broadcast anything else silently."""
    if not isinstance(term, Tensor) or term.ndim:
        received = f"a tensor of shape {tuple(term.shape)}" if isinstance(term, Tensor) else repr(term)
        raise ConfigError(
            f"{type(regularizer).__name__} returned {received}; a penalty must be a tensor with one value and no "
            "dimension. Reduce it, for example by sum()."
        )
    return term
