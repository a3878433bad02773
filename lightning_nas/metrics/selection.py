"""Selection errors: decisions of a discretization that removal from the supernet contradicts."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.supernet import Mixture

Mixtures = Mapping[str, Mixture]


@dataclass(frozen=True)
class Selection:
    """One decision of a discretization.

    Attributes:
        kind: ``edges`` (which inputs a node keeps) or ``operations`` (which operation an edge keeps).
        cell: The cell type.
        node: Index of the node.
        edge: Index of the edge for ``operations``; None for ``edges``.
        chosen: What the discretization kept: the inputs of the node, or the operation of the edge.
        reference: What should have been kept according to removal.
    """

    kind: str
    cell: str
    node: int
    edge: int | None
    chosen: tuple[str, ...]
    reference: tuple[str, ...]

    @property
    def wrong(self) -> bool:
        """Whether the discretization kept something else than the reference."""
        return set(self.chosen) != set(self.reference)


@dataclass(frozen=True)
class SelectionErrors:
    """All decisions of a discretization that had an alternative.

    Attributes:
        selections: The decisions.

    Example:
        ```python
        errors = selection_errors(space, architecture, mixtures, loss)
        errors.rate("operations")  # fraction of the edges whose operation removal contradicts
        ```
    """

    selections: tuple[Selection, ...]

    def rate(self, kind: str) -> float | None:
        """Fraction of the decisions of a kind that are wrong; None if there are no such decisions.

        Args:
            kind: ``edges`` or ``operations``.
        """
        wrong = [s.wrong for s in self.selections if s.kind == kind]
        return sum(wrong) / len(wrong) if wrong else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values: rate, errors and count per kind, and every decision under ``details``."""
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
    """A copy of which operations a mixture computes; those that are removed are skipped."""
    if mixture.active is None:
        return torch.ones(mixture.operations.shape, dtype=torch.bool)
    return mixture.active.clone()


def selection_errors(
    space: DifferentiableSpace,
    architecture: Architecture,
    mixtures: Mixtures,
    loss: Callable[[Mixtures], float],
) -> SelectionErrors:
    """Compare what a discretization kept with what the supernet needs most according to removal.

    - ``edges``: for every node that keeps fewer inputs than it has, the kept inputs are compared with those whose
      removal raises the loss most.
    - ``operations``: for every kept edge, its operation is compared with the one whose removal raises the loss most;
      ``none`` does not compete.

    Removal sets factors to 0 and leaves all others unchanged, as in DARTS-PT. The reference is always removal, never
    the rule of the run, which would find no error in itself. In a space whose nodes keep all inputs, the rate of
    ``edges`` is None, not 0.

    References:
        1. Wang et al.: Rethinking Architecture Selection in Differentiable NAS, ICLR 2021,
           https://arxiv.org/abs/2108.04392

    Args:
        space: The search space.
        architecture: The architecture that the discretization kept.
        mixtures: The factors of the supernet, without gradients.
        loss: Computes the loss of the supernet with given factors, on one fixed batch of held-out images.
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
                candidates = space.selectable[cell][edge].nonzero().flatten().tolist()
                if len(candidates) > 1:
                    losses = [loss(_without_operation(mixtures, cell, edge, o)) for o in candidates]
                    reference = candidates[max(range(len(losses)), key=losses.__getitem__)]
                    names = ((space.operations[operation],), (space.operations[reference],))
                    selections.append(Selection("operations", cell, node, edge, *names))
    return SelectionErrors(tuple(selections))
