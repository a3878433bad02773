"""Selection errors: where a discretization kept what the supernet needs least."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.spaces.base import DifferentiableSpace, Mixture

Mixtures = Mapping[str, Mixture]


@dataclass(frozen=True)
class Selection:
    """One decision of the discretization.

    Attributes:
        kind: ``edges`` (which inputs a node keeps) or ``operations`` (which operation an edge keeps).
        cell: Cell type.
        node: Index of the node.
        edge: Row of the alphas for ``operations``, else None.
        chosen: What was kept: sources of the node, or one operation.
        reference: What removal says should be kept.
    """

    kind: str
    cell: str
    node: int
    edge: int | None
    chosen: tuple[str, ...]
    reference: tuple[str, ...]

    @property
    def wrong(self) -> bool:
        """Whether chosen and reference differ."""
        return set(self.chosen) != set(self.reference)


@dataclass(frozen=True)
class SelectionErrors:
    """All decisions that had an alternative."""

    selections: tuple[Selection, ...]

    def rate(self, kind: str) -> float | None:
        """Share of wrong decisions of a kind, from 0 to 1; None where there was none to make."""
        wrong = [s.wrong for s in self.selections if s.kind == kind]
        return sum(wrong) / len(wrong) if wrong else None

    def to_dict(self) -> dict[str, Any]:
        """JSON form: rate, errors and count of each kind, and every decision."""
        content: dict[str, Any] = {}
        for kind in ("edges", "operations"):
            wrong = [s.wrong for s in self.selections if s.kind == kind]
            content[kind] = {"rate": self.rate(kind), "errors": sum(wrong), "count": len(wrong)}
        content["details"] = [{**asdict(s), "wrong": s.wrong} for s in self.selections]
        return content


def _without_edge(mixtures: Mixtures, cell: str, edge: int) -> dict[str, Mixture]:
    mixture = mixtures[cell]
    operations, edges, active = mixture.operations.clone(), mixture.edges.clone(), _active(mixture)
    operations[edge] = 0
    edges[edge] = 0
    active[edge] = False
    return {**mixtures, cell: Mixture(operations, edges, active)}


def _without_operation(mixtures: Mixtures, cell: str, edge: int, operation: int) -> dict[str, Mixture]:
    mixture = mixtures[cell]
    operations, active = mixture.operations.clone(), _active(mixture)
    operations[edge, operation] = 0
    active[edge, operation] = False
    return {**mixtures, cell: Mixture(operations, mixture.edges, active)}


def _active(mixture: Mixture) -> Tensor:
    """What a mixture computes, as a tensor of its own: what is removed is skipped."""
    if mixture.active is None:
        return torch.ones(mixture.operations.shape, dtype=torch.bool)
    return mixture.active.clone()


def selection_errors(
    space: DifferentiableSpace,
    architecture: Architecture,
    mixtures: Mixtures,
    loss: Callable[[Mixtures], float],
) -> SelectionErrors:
    """Compare what was kept with what the supernet misses most when it is removed.

    E1 (``edges``): for every node with more inputs than it keeps, the kept inputs against those whose removal raises
    the loss most. E2 (``operations``): for every kept edge, its operation against the one (``none`` apart) whose
    removal raises the loss most. Removing sets factors to zero and leaves the others as they are, as in DARTS-PT. The
    reference is removal and never a run's own rule, which would find no error in itself. A space in which nodes keep
    all their inputs has no E1: its rate is None, not 0.

    References:
        1. Wang et al.: Rethinking Architecture Selection in Differentiable NAS, ICLR 2021,
           https://arxiv.org/abs/2108.04392

    Args:
        space: The space.
        architecture: What the discretization kept.
        mixtures: The supernet's factors, without gradients.
        loss: The supernet's loss with given factors, on one fixed batch of held-out images.
    """
    kept = space.chosen(architecture)
    selections = []
    for cell in space.cell_types:
        for node, edges in enumerate(space.nodes):
            mine = [(edge, operation) for edge, operation in kept[cell] if edges.start <= edge < edges.stop]
            rows = range(edges.start, edges.stop)
            if space.inputs_kept is not None and len(rows) > space.inputs_kept:
                harm = {edge: loss(_without_edge(mixtures, cell, edge)) for edge in rows}
                best = sorted(rows, key=lambda edge: -harm[edge])[: space.inputs_kept]
                sources = [tuple(str(e - edges.start) for e in sorted(es)) for es in ([e for e, _ in mine], best)]
                selections.append(Selection("edges", cell, node, None, *sources))
            for edge, operation in mine:
                candidates = [o for o in space.allowed[cell][edge].nonzero().flatten().tolist() if o != space.none]
                if len(candidates) > 1:
                    losses = [loss(_without_operation(mixtures, cell, edge, o)) for o in candidates]
                    reference = candidates[max(range(len(losses)), key=losses.__getitem__)]
                    names = ((space.operations[operation],), (space.operations[reference],))
                    selections.append(Selection("operations", cell, node, edge, *names))
    return SelectionErrors(tuple(selections))
