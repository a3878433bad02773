"""The interface of perturbations."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lightning_nas.differentiable.hypergradient.base import Hypergradient
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.supernet import Mixture

Shares = dict[str, Tensor]
"""Shares ``(edges, operations)`` of the operations in their edge, by cell type; those of an edge sum to 1."""


def projected(shares: Tensor, allowed: Tensor) -> Tensor:
    """Shares between 0 and 1 that sum to 1 on every edge.

    They are clipped and divided by their sum. If nothing is left of an edge, its largest share becomes 1.

    Args:
        shares: Moved shares ``(edges, operations)``.
        allowed: Which operations may have a share, bool ``(edges, operations)``, at least one per edge.
    """
    largest = shares.masked_fill(~allowed, -torch.inf).argmax(1, keepdim=True)
    clipped = shares.clamp(0, 1) * allowed
    total = clipped.sum(1, keepdim=True)
    alone = torch.zeros_like(shares).scatter(1, largest, 1.0)
    return torch.where(total > 0, clipped / torch.where(total > 0, total, 1.0), alone)


class Perturbation(ABC):
    """Moves the factors in every step of the weights; the alphas and their own steps never see it.

    A supernet whose weights fit only the present factors loses accuracy when one operation per edge is chosen. Weights
    that are trained with moved factors make the loss flat around the alphas. What is moved are the shares of the
    operations in their edge, which stay positive and sum to 1; factors are shares times the sum of the factors of the
    edge. Nothing is moved once the architecture is frozen, or in an edge that is decided.

    Example:
        ```python
        class TowardsUniform(Perturbation):
            def moved(self, shares, project, gradient, progress, generator):
                return project({name: 0.9 * s + 0.1 / s.shape[1] for name, s in shares.items()})
        ```
    """

    def check(self, model: SearchModel, hypergradient: Hypergradient) -> None:
        """Refuse a search whose factors cannot be moved.

        Args:
            model: The model of the search.
            hypergradient: Gradient that the alphas follow.

        Raises:
            ConfigError: The alphas follow the same loss or unroll a step of the weights, the factors of an edge do not
                sum to 1 in every step, or operations with the factor 0 are not computed.
        """
        own, relaxation = type(self).__name__, model.relaxation
        if hypergradient.one_level:
            raise ConfigError(
                f"{own} moves the factors in the steps of the weights, which {type(hypergradient).__name__} takes "
                "together with those of the alphas. Use FirstOrder."
            )
        if hypergradient.needs_sgd:
            raise ConfigError(
                f"{own} moves the factors in the steps of the weights, but {type(hypergradient).__name__} unrolls such "
                "a step with the factors as they are. Use FirstOrder."
            )
        ramp = torch.arange(len(model.space.operations), dtype=torch.float32)
        probe = torch.stack([torch.zeros_like(ramp), ramp])
        first = relaxation.drawn(0.0, torch.Generator())  # the sum may depend on the step
        sums = torch.stack([each.relax(probe).sum(1) for each in (relaxation, first)])
        if relaxation.hard or not torch.allclose(sums, torch.ones_like(sums)):
            raise ConfigError(
                f"{own} moves the shares of all operations of an edge, but {type(relaxation).__name__} computes some "
                "of them only, or its factors do not sum to 1 in every step. Use Softmax as the relaxation."
            )

    def perturb(
        self,
        mixtures: Mapping[str, Mixture],
        allowed: Mapping[str, Tensor],
        gradient: Callable[[dict[str, Mixture]], Shares],
        *,
        progress: float,
        generator: torch.Generator,
    ) -> dict[str, Mixture]:
        """The factors of one step of the weights.

        Args:
            mixtures: Factors by cell type, without gradients.
            allowed: Operations that each edge may take, bool ``(edges, operations)`` by cell type; a decided edge has
                only its own.
            gradient: Computes the gradient of the loss of this batch with respect to the factors of the operations.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
            generator: Source of all random draws, on the CPU; in the same state in all processes.
        """
        totals = {name: mixture.operations.sum(1, keepdim=True) for name, mixture in mixtures.items()}
        on = {name: total > 0 for name, total in totals.items()}
        usable = {}
        for name, mixture in mixtures.items():
            mask = allowed[name] if mixture.active is None else allowed[name] & mixture.active
            mask = mask | ~mask.any(1, keepdim=True)  # an edge without operations has no factor that could be moved
            usable[name] = mask.to(mixture.operations.device, non_blocking=True)

        def project(shares: Shares) -> Shares:
            return {name: projected(s, usable[name]) for name, s in shares.items()}

        def placed(shares: Shares) -> dict[str, Mixture]:
            moved = {name: torch.where(on[name], s * totals[name], 0.0) for name, s in shares.items()}
            return {name: mixture._replace(operations=moved[name]) for name, mixture in mixtures.items()}

        def by_share(shares: Shares) -> Shares:
            return {name: g * totals[name] for name, g in gradient(placed(shares)).items()}

        start = {n: m.operations / torch.where(on[n], totals[n], 1.0) for n, m in mixtures.items()}
        return placed(self.moved(start, project, by_share, progress, generator))

    @abstractmethod
    def moved(
        self,
        shares: Shares,
        project: Callable[[Shares], Shares],
        gradient: Callable[[Shares], Shares],
        progress: float,
        generator: torch.Generator,
    ) -> Shares:
        """Move the shares.

        Args:
            shares: Shares of the operations by cell type.
            project: Turns arbitrary numbers into shares; see ``projected``.
            gradient: Computes the gradient of the loss of this batch with respect to the shares, with the running
                batch-norm statistics and averaged over all processes. Every call costs a forward and a backward pass.
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
            generator: Source of all random draws, on the CPU; in the same state in all processes.
        """
