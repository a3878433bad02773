"""Signs that a differentiable search is about to collapse."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, within
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.sharpness import largest_eigenvalue, loss_rise, smallest_eigenvalue
from lightning_nas.spaces.artifact import architecture_from_dict
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.common import check_fixed_images, fixed_images

Measured = tuple[int, Architecture]
"""Epoch of a measurement, and the architecture that would have been chosen then."""


class HealthMonitor(Callback):
    """Measures the known signs of a collapse after epochs of a ``BilevelTask``, and warns once about each.

    A collapse is a fraction of skip connections above ``skip_limit``, or a growing eigenvalue: its mean over the last
    ``window`` measurements is so large that the mean over the ``window`` before is less than ``growth`` of it. With
    ``stop`` it ends the search. If the eigenvalue has grown, the search then returns the architecture from before that,
    as R-DARTS does: the one in the middle of the earlier ``window``. Otherwise it returns the present architecture.

    Logged, with CELL for the cell type:

    - ``health/parameter_free_CELL`` and ``health/skip_CELL``: fractions of the operations that would be chosen now;
    - ``health/entropy_CELL``: entropy of the factors of an edge, averaged over the edges; 1 if all factors are equal;
    - ``health/eigenvalue``: largest eigenvalue, in the algebraic sense, of the Hessian of the search loss with respect
      to the alphas;
    - ``health/smallest_eigenvalue``: the smallest one. Where it is negative and of larger size, the one above is not
      the eigenvalue of largest size, which the log says once; the search is then not near a minimum of the alphas;
    - ``health/sharpness``: how much that loss rises in random directions of the weights;
    - ``health/gap_loss``, ``health/gap_accuracy``: how much worse the supernet is as the architecture that would be
      chosen now than with its mixtures;
    - ``health/unchanged_epochs``: epochs since that architecture last changed.

    Everything that needs images is measured on the same images of the search half, with batch statistics, and does not
    change a bit of the search. Every process measures and takes over what the main one found.

    References:
        1. Zela et al.: Understanding and Robustifying Differentiable Architecture Search, ICLR 2020,
           https://arxiv.org/abs/1909.09656
        2. Liang et al.: DARTS+: Improved Differentiable Architecture Search with Early Stopping, 2019,
           https://arxiv.org/abs/1909.06035

    Args:
        every_n_epochs: Number of epochs between two measurements, at least 1.
        images: Number of images of the search half to measure on; 0 skips what needs images.
        seed: Seed of the choice of these images.
        eigenvalue: Whether to measure the eigenvalue, which needs second derivatives, as ``ExactSecondOrder`` does.
        tolerance: Error of an eigenvalue at which its iteration ends, in (0, 1): relative to the largest one itself,
            and to the spread of all of them for the smallest one.
        radius: Distance from the weights at which the sharpness is measured, relative to their norm; 0 skips it.
        skip_limit: Largest healthy fraction of skip connections in a cell, in [0, 1] (DARTS+ stops at 2 of 8).
        window: Number of measurements that the eigenvalue is averaged over, at least 1 (R-DARTS: 5).
        growth: Smallest healthy ratio of the earlier to the later mean eigenvalue, in [0, 1] (R-DARTS: 0.75).
        entropy_limit: Entropy in [0, 1] above which the alphas of a cell have not decided anything yet.
        entropy_epochs: Number of epochs after which such an entropy causes a warning, at least 1.
        stop: Whether a collapse ends the search, and a grown eigenvalue returns an earlier architecture.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        trainer:
          callbacks: [{class_path: HealthMonitor, init_args: {images: 64, stop: true}}]
        ```
    """

    metrics_logged = ("health/*",)

    def __init__(
        self,
        every_n_epochs: int = 1,
        *,
        images: int = 64,
        seed: int = 0,
        eigenvalue: bool = True,
        tolerance: float = 1e-2,
        radius: float = 0.0,
        skip_limit: float = 0.5,
        window: int = 5,
        growth: float = 0.75,
        entropy_limit: float = 0.999,
        entropy_epochs: int = 10,
        stop: bool = False,
    ) -> None:
        at_least(1, every_n_epochs=every_n_epochs, window=window, entropy_epochs=entropy_epochs)
        at_least(0, images=images, radius=radius)
        within("(0, 1)", tolerance=tolerance)
        within("[0, 1]", skip_limit=skip_limit, growth=growth, entropy_limit=entropy_limit)
        self.every_n_epochs = every_n_epochs
        self.images = images
        self.seed = seed
        self.eigenvalue = eigenvalue and images > 0
        self.tolerance = tolerance
        self.radius = radius if images else 0.0
        self.skip_limit = skip_limit
        self.window = window
        self.growth = growth
        self.entropy_limit = entropy_limit
        self.entropy_epochs = entropy_epochs
        self.stop = stop
        self.eigenvalues: list[float] = []
        self.measured: list[Measured] = []
        self.returned: Measured | None = None
        self.warned: list[str] = []
        self.told = False
        self.genotype = ""
        self.changed = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a search in which the signs cannot be measured; a resumed one returns what it did before.

        Raises:
            ConfigError: The task is not a ``BilevelTask``, its supernet has no second derivatives, or the data have no
                fixed images of a search half.
        """
        task = _search(pl_module)
        task.returned = self.returned
        model = task.model
        if self.images:
            check_fixed_images("HealthMonitor", trainer)
        runner = model.runner
        if self.eigenvalue and (runner.checkpoint_cells or runner.compile is not False):
            raise ConfigError(
                "The eigenvalue of HealthMonitor needs second derivatives, which the task's checkpoint_cells: "
                f"{runner.checkpoint_cells} and compile: {runner.compile} do not give. Use checkpoint_cells: false and "
                "compile: false, or eigenvalue: false."
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, log, warn and, with ``stop``, end a collapsed search."""
        epoch = trainer.current_epoch
        if (epoch + 1) % self.every_n_epochs:
            return
        task = _search(pl_module)
        model = task.model
        found = model.discretize()
        values = {**_shares(model, found), **_entropies(model)}
        key = model.space.key(found)
        if key != self.genotype:
            self.genotype, self.changed = key, epoch
        values["unchanged_epochs"] = float(epoch - self.changed)
        if self.images:
            batch = fixed_images(task, self.images, self.seed)
            values |= gap(model, found, *batch)
            if self.eigenvalue:
                largest = alpha_eigenvalue(model, *batch, self.tolerance)
                values["eigenvalue"] = largest
                values["smallest_eigenvalue"] = smallest_alpha_eigenvalue(
                    model, *batch, self.tolerance, largest=largest
                )
            if self.radius:
                values["sharpness"] = sharpness(model, *batch, self.radius)
        values = trainer.strategy.broadcast(values)
        pl_module.log_dict({f"health/{name}": value for name, value in values.items()})
        if self.eigenvalue:
            self.eigenvalues.append(values["eigenvalue"])
            self.measured = [*self.measured, (epoch, found)][-2 * self.window :]
        collapsed = self._collapsed(values, epoch)
        if self.stop:
            selected = model.frozen or model.mask.decided  # by something else, which nothing takes back
            self.returned = None if selected or self._growth() is None else self.measured[self.window // 2]
            task.returned = self.returned
            trainer.should_stop |= collapsed

    def _growth(self) -> tuple[float, float] | None:
        """The earlier and the later mean eigenvalue, if the second is too large."""
        if len(self.eigenvalues) < 2 * self.window:
            return None
        later = sum(self.eigenvalues[-self.window :]) / self.window
        earlier = sum(self.eigenvalues[-2 * self.window : -self.window]) / self.window
        return (earlier, later) if later > 0 and earlier / later < self.growth else None

    def _collapsed(self, values: Mapping[str, float], epoch: int) -> bool:
        """Whether the search has collapsed; warns once about that and about alphas that do not decide."""
        collapsed = False
        for name, value in values.items():
            kind, _, cell = name.partition("_")
            if kind == "skip" and value > self.skip_limit:
                collapsed = True
                self._warn(
                    name,
                    f"{value:.0%} of the operations that the {cell} cell would keep after epoch {epoch} are skip "
                    f"connections, more than {self.skip_limit:.0%}: the search collapses. Stop it earlier, or use "
                    "regularizers or another normalization.",
                )
            if kind == "entropy" and value > self.entropy_limit and epoch + 1 >= self.entropy_epochs:
                self._warn(
                    name,
                    f"After {epoch + 1} epochs the alphas of the {cell} cell are still equal (entropy {value:.4f} of "
                    "1). Raise the learning rate of the alphas, or shorten the warm-up.",
                )
        if -values.get("smallest_eigenvalue", 0.0) > max(values.get("eigenvalue", 0.0), 0.0) and not self.told:
            self.told = True
            rank_zero_info(
                f"After epoch {epoch} the eigenvalue of the Hessian of the alphas with the largest size is negative, "
                f"{values['smallest_eigenvalue']:.3g}. health/eigenvalue, {values['eigenvalue']:.3g}, is the largest "
                "in the algebraic sense; it says little about a collapse before the alphas are near a minimum.",
            )
        if (growth := self._growth()) is not None:
            collapsed = True
            self._warn(
                "eigenvalue",
                f"The largest eigenvalue of the Hessian of the alphas has grown from {growth[0]:.3g} to "
                f"{growth[1]:.3g} (means of {self.window} measurements) by epoch {epoch}: from now on discretization "
                "loses more accuracy. Stop here, or raise the weight decay of the weights.",
            )
        return collapsed

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self.warned:
            self.warned.append(kind)
            rank_zero_warn(text)

    def state_dict(self) -> dict[str, Any]:
        """The measurements and warnings so far."""
        names = ("eigenvalues", "warned", "told", "genotype", "changed")
        measured = [_plain(each) for each in self.measured]
        returned = None if self.returned is None else _plain(self.returned)
        return {**{name: getattr(self, name) for name in names}, "measured": measured, "returned": returned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.eigenvalues, self.warned = list(state_dict["eigenvalues"]), list(state_dict["warned"])
        self.told = state_dict.get("told", False)
        self.genotype, self.changed = state_dict["genotype"], state_dict["changed"]
        self.measured = [_read(each) for each in state_dict["measured"]]
        self.returned = None if state_dict["returned"] is None else _read(state_dict["returned"])


def _plain(measured: Measured) -> dict[str, Any]:
    return {"epoch": measured[0], "architecture": measured[1].to_dict()}


def _read(content: Mapping[str, Any]) -> Measured:
    return content["epoch"], architecture_from_dict(content["architecture"])


def _search(module: LightningModule) -> BilevelTask:
    if not isinstance(module, BilevelTask):
        raise ConfigError(
            f"HealthMonitor looks at the alphas of a BilevelTask, which {type(module).__name__} does not have. Leave "
            "it out of trainer.callbacks."
        )
    return module


def _shares(model: SearchModel, found: Architecture) -> dict[str, float]:
    """Fractions of operations without weights, and of skip connections, by cell type."""
    values = {}
    for cell, kept in model.space.chosen(found).items():
        operations = [model.space.candidates[column] for _, column in kept]
        values[f"parameter_free_{cell}"] = sum(not each.has_weights for each in operations) / len(operations)
        values[f"skip_{cell}"] = sum(each.is_skip for each in operations) / len(operations)
    return values


@torch.no_grad()
def _entropies(model: SearchModel) -> dict[str, float]:
    """Mean entropy of the factors of an edge by cell type; 1 where all of them are equal."""
    values = {}
    for cell, mixture in model.mixtures().items():
        allowed = model.space.allowed[cell].sum(1)
        open_ = (allowed > 1).to(mixture.operations.device) & (mixture.operations.sum(1) > 0)
        if open_.any():
            factors = mixture.operations[open_].double()
            factors = factors / factors.sum(1, keepdim=True)
            most = allowed.to(open_.device)[open_].double().log()
            values[f"entropy_{cell}"] = float((torch.special.entr(factors).sum(1) / most).mean())
    return values


def gap(model: SearchModel, found: Architecture, images: Tensor, labels: Tensor) -> dict[str, float]:
    """How much worse the supernet is as one architecture than with its mixtures, with batch statistics.

    Args:
        model: The model of the search.
        found: The architecture.
        images: Normalised images ``(batch, channels, height, width)``.
        labels: Labels ``(batch,)`` of type int64.

    Returns:
        ``gap_loss``, the loss of the architecture minus that of the mixtures, and ``gap_accuracy``, the accuracy of the
        mixtures minus that of the architecture.
    """
    discrete = {}
    for cell, mixture in model.space.to_path(found).items():
        operations, edges = (part.to(images.device, images.dtype) for part in mixture[:2])
        discrete[cell] = mixture._replace(operations=operations, edges=edges)
    losses, accuracies = zip(*(model.loss_and_accuracy(images, labels, m) for m in (None, discrete)), strict=True)
    return {"gap_loss": losses[1] - losses[0], "gap_accuracy": accuracies[0] - accuracies[1]}


def alpha_eigenvalue(model: SearchModel, images: Tensor, labels: Tensor, tolerance: float = 1e-2) -> float:
    """Algebraically largest eigenvalue of the Hessian of the supernet's loss by the alphas, with batch statistics.

    Args:
        model: The model of the search.
        images: Normalised images ``(batch, channels, height, width)``.
        labels: Labels ``(batch,)`` of type int64.
        tolerance: Relative error at which the iteration ends; see ``lightning_nas.metrics.sharpness``.
    """
    return _alpha_eigenvalue(largest_eigenvalue, model, images, labels, tolerance)


def smallest_alpha_eigenvalue(
    model: SearchModel, images: Tensor, labels: Tensor, tolerance: float = 1e-2, *, largest: float | None = None
) -> float:
    """Algebraically smallest eigenvalue of the same Hessian; see ``alpha_eigenvalue``.

    Args:
        model: The model of the search.
        images: Normalised images ``(batch, channels, height, width)``.
        labels: Labels ``(batch,)`` of type int64.
        tolerance: Error at which the iteration ends; see ``lightning_nas.metrics.sharpness``.
        largest: What ``alpha_eigenvalue`` has found; None, the default, measures it.
    """
    return _alpha_eigenvalue(partial(smallest_eigenvalue, largest=largest), model, images, labels, tolerance)


def _alpha_eigenvalue(
    end: Callable[..., float], model: SearchModel, images: Tensor, labels: Tensor, tolerance: float
) -> float:
    weights = {name: weight.detach() for name, weight in model.weights.items()}
    with torch.enable_grad(), model.batch_statistics():
        loss = F.cross_entropy(model.logits(images, model.mixtures(), weights), labels)
        # the loss of a frozen architecture does not depend on the alphas
        return end(loss, model.alpha_list, tolerance) if loss.requires_grad else 0.0


@torch.no_grad()
def sharpness(model: SearchModel, images: Tensor, labels: Tensor, radius: float) -> float:
    """How much the supernet's loss rises around its weights, with batch statistics.

    Args:
        model: The model of the search.
        images: Normalised images ``(batch, channels, height, width)``.
        labels: Labels ``(batch,)`` of type int64.
        radius: Distance from the weights, relative to their norm; see ``lightning_nas.metrics.sharpness``.
    """
    with model.batch_statistics():
        mixtures = model.mixtures()
        return loss_rise(lambda w: F.cross_entropy(model.logits(images, mixtures, w), labels), model.weights, radius)
