"""Which alphas count, and what replaces the others: operations that were removed, decided edges, a frozen search."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.supernet import Mixture

EMPTY = -1e9
"""Alpha of every operation on an edge without operations: no share against other edges, but a softmax of its own."""


class AlphaMask:
    """Masks alphas, mixtures and scores by what the space allows and by what is already decided.

    Alphas keep their shape for the whole search, so that optimizers, checkpoints and artifacts stay comparable. The
    mask decides which of them count: operations that the space does not allow never do; a decided edge has its one
    operation (or none at all) whatever its alphas are; and a frozen search computes one architecture alone.

    Args:
        space: The search space; one that allows every operation masks nothing.

    Attributes:
        frozen: The architecture that the supernet computes from now on; None while the search goes on.
        decided: For every cell type, the operation that a decided edge keeps, or None if the edge was removed.
        compute_all: Whether operations that lost a decision are still computed, with the factor 0. Data parallelism
            needs this, because it waits for a gradient of every parameter.

    Example:
        ```python
        space = DARTSSpace(nodes=2)
        allowed = {name: mask.clone() for name, mask in space.allowed.items()}
        allowed["normal"][0, 0] = False
        mask = AlphaMask(space.restrict(allowed))
        mask.alphas({name: torch.zeros(5, 8) for name in space.cell_types})["normal"][0, 0]  # -inf
        ```
    """

    def __init__(self, space: DifferentiableSpace) -> None:
        self.space = space
        self.frozen: Architecture | None = None
        self.decided: dict[str, dict[int, int | None]] = {}
        self.compute_all = False
        self.masks = {name: ~mask for name, mask in space.allowed.items() if not mask.all()}

    def decide(self, cell_type: str, edge: int, operation: int | None) -> None:
        """Give an edge its operation for the rest of the search.

        Args:
            cell_type: Name of the cell type.
            edge: Row of the alphas.
            operation: Column of the alphas; None removes the edge.
        """
        self.decided.setdefault(cell_type, {})[edge] = operation

    def open(self) -> dict[str, Tensor]:
        """Which operations may have a factor, bool ``(edges, operations)`` by cell type.

        These are the operations that the space allows; a decided edge has only its own, and a removed edge has none.
        """
        masks = {name: mask.clone() for name, mask in self.space.allowed.items()}
        for name, edges in self.decided.items():
            for edge, operation in edges.items():
                masks[name][edge] = False
                if operation is not None:
                    masks[name][edge, operation] = True
        return masks

    def alphas(self, alphas: Mapping[str, Tensor], empty: float = EMPTY) -> dict[str, Tensor]:
        """Replace the alphas of operations that are not allowed by ``-inf``.

        Args:
            alphas: Alphas ``(edges, operations)`` by cell type.
            empty: Value of all alphas of an edge that has no operation left; a softmax of ``-inf`` alone would be NaN.
        """
        masked = dict(alphas)
        for name, mask in self.masks.items():
            mask = mask.to(masked[name].device, non_blocking=True)
            masked[name] = masked[name].masked_fill(mask, -torch.inf)
            masked[name] = masked[name].masked_fill(mask.all(1, keepdim=True), empty)
        return masked

    def edge_alphas(self, edge_alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give edges without operations no share in their node.

        Args:
            edge_alphas: Alphas ``(edges,)`` by cell type.
        """
        masked = dict(edge_alphas)
        for name in masked.keys() & self.masks.keys():
            removed = self.masks[name].all(1).to(masked[name].device, non_blocking=True)
            masked[name] = masked[name].masked_fill(removed, EMPTY)
        return masked

    def mixture(self, cell_type: str, mixture: Mixture, *, hard: bool, adds_zeros: bool = False) -> Mixture:
        """Mask the factors of one cell type.

        Args:
            cell_type: Name of the cell type.
            mixture: Factors that were made from masked alphas.
            hard: Whether operations with the factor 0 are left out of the computation.
            adds_zeros: Whether the factors of those operations are added to what the edge makes.
        """
        if cell_type in self.masks:
            mask = self.masks[cell_type].to(mixture.operations.device, non_blocking=True)
            operations = mixture.operations.masked_fill(mask, 0.0)
            mixture = Mixture(operations, mixture.edges.masked_fill(mask.all(1), 0.0))
        if hard:
            chosen = mixture.operations != 0
            # batched supernets compute some of what was not chosen all the same; it must not get gradients from that
            constants = mixture.operations.masked_fill(chosen, 0.0).sum(1) if adds_zeros else None
            mixture = Mixture(mixture.operations.masked_fill(~chosen, 0.0), mixture.edges, chosen.cpu(), constants)
        return self._with_decisions(cell_type, mixture) if cell_type in self.decided else mixture

    def _with_decisions(self, cell_type: str, mixture: Mixture) -> Mixture:
        """Give decided edges their whole factor on one operation, and removed edges none."""
        fixed = torch.zeros(len(mixture.edges), dtype=torch.bool)
        kept = torch.zeros(mixture.operations.shape, dtype=torch.bool)
        for edge, operation in self.decided[cell_type].items():
            fixed[edge] = True
            if operation is not None:
                kept[edge, operation] = True
        device = mixture.edges.device
        edges = torch.where((fixed & ~kept.any(1)).to(device, non_blocking=True), 0.0, mixture.edges)
        on = [mask.to(device, non_blocking=True) for mask in (fixed, kept)]
        operations = torch.where(on[0][:, None], on[1] * edges[:, None], mixture.operations)
        constants = mixture.constants
        if constants is not None:
            constants = torch.where(on[0], 0.0, constants)
        if self.compute_all:
            return Mixture(operations, edges, constants=constants)
        active = torch.ones_like(kept) if mixture.active is None else mixture.active
        return Mixture(operations, edges, torch.where(fixed[:, None], kept, active), constants)

    def scores(self, cell_type: str, scores: Tensor) -> Tensor:
        """Let the decided operations win, and removed edges lose, when an architecture is selected by score.

        Args:
            cell_type: Name of the cell type.
            scores: A discretizer's scores ``(edges, operations)``; they are not changed.
        """
        scores = scores.detach().clone()
        for edge, operation in self.decided.get(cell_type, {}).items():
            if operation is None:
                scores[edge] = torch.finfo(scores.dtype).min
            else:
                others = torch.arange(scores.shape[1], device=scores.device) != operation
                scores[edge, others] = -torch.inf
        return scores

    def frozen_mixtures(self, like: Tensor) -> dict[str, Mixture] | None:
        """Factors of the frozen architecture, 1 for what it keeps; None while the search goes on.

        Args:
            like: A tensor with the device and the type that the factors get.
        """
        if self.frozen is None:
            return None
        discrete = self.space.to_path(self.frozen).items()
        return {name: Mixture(m.operations.to(like), m.edges.to(like), m.active) for name, m in discrete}
