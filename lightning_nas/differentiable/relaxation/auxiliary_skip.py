"""The auxiliary skip connection of DARTS-."""

import copy
import math
from typing import Literal

import torch
from torch import Tensor

from lightning_nas.checks import at_least, one_of
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace


class AuxiliarySkip(Softmax):
    """A softmax, and a skip connection beside it on every edge whose factor decays: ``beta * x + sum_o p_o o(x)``.

    The auxiliary skip connection lets gradients pass, which the skip connection among the operations then need not do,
    so that it wins only where the operation itself is of use. ``beta`` falls from ``weight`` in the first step of the
    search to 0 in the last one. Outside of training steps, as in validation, in selection errors, in ``HealthMonitor``
    and in ``alphas.safetensors``, there is none.

    On edges of stride 2 the authors' code gives the auxiliary skip connection a factorized reduction of its own; here
    it is the one of the operation ``skip_connect``, so that no weights are added. An edge that may not take
    ``skip_connect`` has no auxiliary one. It goes without ``normalization``.

    References:
        1. Chu, Wang, Zhang, Lu, Wei, Yan: DARTS-: Robustly Stepping out of Performance Collapse Without Indicators,
           ICLR 2021, https://arxiv.org/abs/2009.01027

    Args:
        weight: Factor of the auxiliary skip connection in the first step, at least 0 (the paper: 1).
        decay: How the factor falls: ``linear`` (the paper) or ``cosine``.

    Raises:
        ConfigError: ``weight`` is negative, or there is no such decay.

    Example:
        ```yaml
        relaxation: {class_path: AuxiliarySkip, init_args: {weight: 1.0}}
        ```
    """

    def __init__(self, weight: float = 1.0, *, decay: Literal["linear", "cosine"] = "linear") -> None:
        super().__init__()
        at_least(0, weight=weight)
        one_of(("linear", "cosine"), decay=decay)
        self.weight = weight
        self.decay = decay
        self.column: int | None = None
        self.beta = 0.0

    def attach(self, space: DifferentiableSpace, *, normalized: bool) -> None:
        """Look up the skip connection.

        Args:
            space: The search space.
            normalized: Whether a normalization makes factors of different edges comparable.

        Raises:
            ConfigError: The space has no skip connection, or there is a normalization.
        """
        columns = [column for column, operation in enumerate(space.candidates) if operation.is_skip]
        if not columns:
            raise ConfigError(
                f"AuxiliarySkip raises the factor of the skip connection, which is none of {list(space.operations)}. "
                "Add skip_connect to the operations of the space, or use Softmax."
            )
        if normalized:
            raise ConfigError(
                "With AuxiliarySkip the factors of an edge do not sum to 1 before the end of the search, and a "
                "normalization needs that. Leave the normalization out, or use Softmax."
            )
        self.column = columns[0]

    def drawn(self, progress: float, generator: torch.Generator) -> "AuxiliarySkip":
        """A copy with the auxiliary skip connection of a step.

        Args:
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
            generator: Not used.
        """
        one = copy.copy(self)
        share = 1 - progress if self.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
        one.beta = self.weight * share
        return one

    def relax(self, alphas: Tensor) -> Tensor:
        """Factors ``(edges, operations)``; those of every edge sum to 1, and to ``beta`` more in a training step.

        Args:
            alphas: Alphas ``(edges, operations)``.
        """
        factors = super().relax(alphas)
        if not self.beta or self.column is None:
            return factors
        added = [self.beta if column == self.column else 0.0 for column in range(alphas.shape[1])]
        return factors + torch.tensor(added, dtype=alphas.dtype).to(alphas.device, non_blocking=True)
