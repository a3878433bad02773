"""Which components of a differentiable search go together."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.discretization.joint_score import JointScore
from lightning_nas.differentiable.discretization.sigmoid_score import SigmoidScore
from lightning_nas.differentiable.discretization.skip_cap import SkipCap
from lightning_nas.differentiable.hypergradient.base import Hypergradient
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.differentiable.runner import Compile, Memory
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import DifferentiableSpace


def check_components(
    space: DifferentiableSpace,
    hypergradient: Hypergradient,
    discretizer: Discretizer,
    relaxation: Relaxation,
    normalization: Normalization | None,
    attention: Attention | None,
    memory: Memory,
    compile: Compile,
) -> None:
    """Refuse components that don't go together; see ``BilevelTask`` for what they are.

    Raises:
        ConfigError: Two of them, with the reason.
    """
    if discretizer.edge_alphas and not (normalization is not None and normalization.edge_alphas):
        raise ConfigError(
            f"{type(discretizer).__name__} scores by alphas of edges, which {type(normalization).__name__} does "
            "not train. Use EdgeSoftmax as the normalization, or another discretizer."
        )
    scorer = discretizer.discretizer if isinstance(discretizer, SkipCap) else discretizer
    wanted = "JointSoftmax as the normalization" if isinstance(scorer, JointScore) else "Sigmoid as the relaxation"
    if (isinstance(scorer, JointScore) and not isinstance(normalization, JointSoftmax)) or (
        isinstance(scorer, SigmoidScore) and not isinstance(relaxation, Sigmoid)
    ):
        raise ConfigError(
            f"{type(scorer).__name__} compares alphas of different edges, but {type(relaxation).__name__} with "
            f"{type(normalization).__name__} lets all alphas of an edge rise together, which no gradient sees. "
            f"Use {wanted}, or another discretizer."
        )
    if hypergradient.needs_sgd and (memory == "low" or compile is not False):
        raise ConfigError(
            f"{type(hypergradient).__name__} evaluates the supernet at weights that are not its own, which memory: "
            f"{memory} and compile: {compile} cannot do. Use memory: normal and compile: false, or FirstOrder."
        )
    if relaxation.stochastic and hypergradient.needs_sgd:
        raise ConfigError(
            f"{type(relaxation).__name__} draws anew in every pass, but {type(hypergradient).__name__} compares passes "
            "with each other. Use FirstOrder or OneLevel, or another relaxation."
        )
    if relaxation.hard and compile is not False:
        raise ConfigError(
            f"{type(relaxation).__name__} computes other operations in every step, and compile: {compile} would make a "
            "program for each choice of them. Use compile: false."
        )
    if relaxation.hard and attention is not None and attention.operation_scores(1, 1) is not None:
        raise ConfigError(
            f"{type(attention).__name__} weights the operations of an edge against each other, but "
            f"{type(relaxation).__name__} computes one alone. Leave the attention out, or use another relaxation."
        )
    if "noise" in space.operations and (memory == "low" or hypergradient.needs_sgd):
        raise ConfigError(
            f"The operation noise draws anew in every pass, but memory: {memory} or {type(hypergradient).__name__} "
            "needs the same draw twice. Use memory: normal and FirstOrder."
        )
    discretizer.check(space)


def check_numbers(warmup_epochs: int, weight_clip_norm: float, alpha_scale: float, selection_images: int) -> None:
    """Refuse numbers of a search that are out of their range.

    Raises:
        ConfigError: One is below 0 or not finite.
    """
    numbers = {
        "warmup_epochs": warmup_epochs,
        "weight_clip_norm": weight_clip_norm,
        "alpha_scale": alpha_scale,
        "selection_images": selection_images,
    }
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} is {value}; it must be a number from 0 on.")


def check_epochs(max_epochs: int | None, relaxation: Relaxation, regularizers: Sequence[Regularizer]) -> None:
    """Refuse a search without an end where something follows the share of it that is over.

    Raises:
        ConfigError: There is no number of epochs.
    """
    parts = [type(part).__name__ for part in (relaxation, *regularizers)]
    if (max_epochs is None or max_epochs < 1) and (relaxation.stochastic or regularizers):
        raise ConfigError(
            f"trainer.max_epochs is {max_epochs}, but {parts} may change in the course of the search, whose length "
            "they must know. Set it; max_steps and max_time may end the search earlier."
        )


def check_halves(batch: Any) -> None:
    """Refuse batches that are not those of two halves.

    Raises:
        ConfigError: Of other data.
    """
    if not isinstance(batch, Mapping) or not {"train", "search"} <= batch.keys():
        raise ConfigError(
            f"A batch is {sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__}; a search needs the "
            "halves train and search in each. Give lightning_nas.data.halves.HalvesDataModule the data module as "
            "`data`."
        )


def check_supernet(attention: Attention | None, begins_from: str | None, is_written: bool) -> None:
    """Refuse supernets between runs that would lose weights.

    Raises:
        ConfigError: There is attention.
    """
    if attention is not None and (begins_from is not None or is_written):
        raise ConfigError(
            f"supernet.safetensors has no place for the weights of {type(attention).__name__}. Leave attention out, or "
            "supernet: null and write_supernet: false."
        )


def check_batch_norm(supernet: nn.Module) -> None:
    """Refuse batch norm that is to be synchronised over processes.

    Raises:
        ConfigError: It is.
    """
    if any(isinstance(part, nn.SyncBatchNorm) for part in supernet.modules()):
        raise ConfigError(
            "trainer.sync_batchnorm is true, but the supernet normalises many operations in one pass, by each "
            "process's part of the batch. Set it to false; larger batches a process have the same effect."
        )


def check_schedulers(schedulers: Sequence[Any]) -> None:
    """Refuse schedulers that need a metric.

    Raises:
        ConfigError: One does.
    """
    if any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in schedulers):
        raise ConfigError("ReduceLROnPlateau needs a metric, which a search has none of; use another scheduler.")
