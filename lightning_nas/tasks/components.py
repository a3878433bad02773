"""Which components of a differentiable search go together."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_nas.differentiable.attention.base import Attention
from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.hypergradient.base import Hypergradient
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.tasks.execution import Compile, Memory


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
