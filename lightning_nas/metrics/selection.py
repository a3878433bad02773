"""Selection errors: decisions of a discretization that removal from the supernet contradicts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.metrics.paired import wilson_interval
from lightning_nas.metrics.race import RaceResult, race
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.supernet import Mixture

Mixtures = Mapping[str, Mixture]

KINDS = ("edges", "operations")
"""The kinds of decisions: E1 and E2."""


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
        decided: Whether the reference is ahead of all alternatives by more than the error of its measurement.
        tie: Whether the reference and the best alternative are equal on every image; never if decided.
        images: Number of images that the reference was measured on.
        lead: By how much the removal of the weakest part of the reference raises the loss more than that of the best
            alternative, in nats; None if it is not finite.
        error: Standard error of the lead; None for a single image, or if it is not finite.
    """

    kind: str
    cell: str
    node: int
    edge: int | None
    chosen: tuple[str, ...]
    reference: tuple[str, ...]
    decided: bool
    tie: bool
    images: int
    lead: float | None
    error: float | None

    @property
    def wrong(self) -> bool:
        """Whether the reference is decided, and the discretization kept something else."""
        return self.decided and set(self.chosen) != set(self.reference)


@dataclass(frozen=True)
class SelectionErrors:
    """All decisions of a discretization that had an alternative.

    Attributes:
        selections: The decisions.
        confidence: Probability that a decided reference is right.

    Example:
        ```python
        errors = selection_errors(space, architecture, mixtures, losses, batches=32)
        errors.rate("operations")  # fraction of the decided edges whose operation removal contradicts
        ```
    """

    selections: tuple[Selection, ...]
    confidence: float

    def of(self, kind: str) -> list[Selection]:
        """The decisions of a kind.

        Args:
            kind: ``edges`` or ``operations``.
        """
        return [each for each in self.selections if each.kind == kind]

    def rate(self, kind: str) -> float | None:
        """Fraction of the decided selections of a kind that are wrong; None if there are no such selections.

        Args:
            kind: ``edges`` or ``operations``.
        """
        rate: float | None = self.summary(kind)["rate"]
        return rate

    def summary(self, kind: str) -> dict[str, Any]:
        """Count the decisions of a kind.

        Args:
            kind: ``edges`` or ``operations``.

        Returns:
            JSON values: ``rate`` of errors among the decided ones and its Wilson interval of 95 % (``low``, ``high``),
            which are None if none is decided; ``errors``; ``decided``, ``undecided`` (of which ``ties``), and
            ``count``, which is both together; and ``images``, the largest number of images that a decision took.
        """
        found = self.of(kind)
        counts = {
            "errors": sum(each.wrong for each in found),
            "decided": sum(each.decided for each in found),
            "ties": sum(each.tie for each in found),
            "count": len(found),
            "images": max((each.images for each in found), default=0),
        }
        return _summary(counts)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: ``summary`` of each kind, ``confidence``, and every decision under ``details``."""
        content: dict[str, Any] = {kind: self.summary(kind) for kind in KINDS}
        content["confidence"] = self.confidence
        content["details"] = [{**asdict(s), "wrong": s.wrong} for s in self.selections]
        return content


def pooled(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the decisions of a kind in several searches; see ``SelectionErrors.summary``.

    Args:
        summaries: The summary of each search; there may be none.
    """
    counts = {name: sum(each[name] for each in summaries) for name in ("errors", "decided", "ties", "count")}
    return _summary({**counts, "images": max((each["images"] for each in summaries), default=0)})


def _summary(counts: Mapping[str, int]) -> dict[str, Any]:
    """Add the rate of errors and its interval to counts."""
    wrong, decided = counts["errors"], counts["decided"]
    rate = wrong / decided if decided else None
    low, high = (None, None) if rate is None else wilson_interval(rate, decided)
    undecided = counts["count"] - decided
    return {"rate": rate, "low": low, "high": high, **counts, "undecided": undecided}


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


@dataclass(frozen=True)
class _Question:
    """A decision and its alternatives: what was chosen of them, by name, and the mixtures without each of them."""

    kind: str
    cell: str
    node: int
    edge: int | None
    chosen: tuple[str, ...]
    names: tuple[str, ...]
    removals: tuple[dict[str, Mixture], ...]

    def answer(self, found: RaceResult) -> Selection:
        reference = tuple(self.names[i] for i in sorted(found.ranking[: len(self.chosen)]))
        lead, error = (None if x is None or not math.isfinite(x) else x for x in (found.lead, found.error))
        rest = (found.decided, found.tie, found.images, lead, error)
        return Selection(self.kind, self.cell, self.node, self.edge, self.chosen, reference, *rest)


def _questions(space: DifferentiableSpace, architecture: Architecture, mixtures: Mixtures) -> list[_Question]:
    """Every decision of a discretization that had an alternative, in the order of cells, nodes and edges."""
    kept = space.chosen(architecture)
    found = []
    for cell in space.cell_types:
        for node, edges in enumerate(space.nodes):
            mine = [(edge, operation) for edge, operation in kept[cell] if edges.start <= edge < edges.stop]
            rows = range(edges.start, edges.stop)
            if space.inputs_kept is not None and len(rows) > space.inputs_kept:
                chosen = tuple(str(edge - edges.start) for edge, _ in sorted(mine))
                removals = tuple(_without_edge(mixtures, cell, edge) for edge in rows)
                names = tuple(str(edge - edges.start) for edge in rows)
                found.append(_Question("edges", cell, node, None, chosen, names, removals))
            for edge, operation in mine:
                candidates = space.selectable[cell][edge].nonzero().flatten().tolist()
                if len(candidates) > 1:
                    removals = tuple(_without_operation(mixtures, cell, edge, o) for o in candidates)
                    names = tuple(space.operations[o] for o in candidates)
                    chosen = (space.operations[operation],)
                    found.append(_Question("operations", cell, node, edge, chosen, names, removals))
    return found


def selection_errors(
    space: DifferentiableSpace,
    architecture: Architecture,
    mixtures: Mixtures,
    losses: Callable[[Mixtures, int], Tensor],
    *,
    batches: int,
    confidence: float = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> SelectionErrors:
    """Compare what a discretization kept with what the supernet needs most according to removal.

    - ``edges``: for every node that keeps fewer inputs than it has, the kept inputs are compared with those whose
      removal raises the loss most.
    - ``operations``: for every kept edge, its operation is compared with the one whose removal raises the loss most;
      ``none`` does not compete.

    Removal sets factors to 0 and leaves all others unchanged, as in DARTS-PT. The reference is always removal, never
    the rule of the run, which would find no error in itself. In a space whose nodes keep all inputs, the rate of
    ``edges`` is None, not 0.

    A removal has an error of its own, since the images are a sample. Every decision therefore takes as many batches as
    it needs until its reference is ahead of the best alternative by more than that error, or all batches are spent; see
    ``race``. What is undecided then, ties among it, is counted apart and is never an error. Whether a reference is
    decided does not depend on what was chosen, so that the rate among the decided ones is not biased by it.

    References:
        1. Wang et al.: Rethinking Architecture Selection in Differentiable NAS, ICLR 2021,
           https://arxiv.org/abs/2108.04392

    Args:
        space: The search space.
        architecture: The architecture that the discretization kept.
        mixtures: The factors of the supernet, without gradients.
        losses: Computes the loss ``(images,)`` of the supernet on every image of a batch of held-out images, given the
            factors and the index of the batch; the same images with every call.
        batches: Largest number of batches, at least 1.
        confidence: Probability, between 0.5 and 1, that a decided reference is right.
        progress: Called with the number of removals that are settled and with the number of all removals, after every
            comparison.

    Raises:
        ConfigError: A number is out of its range.
    """
    questions = _questions(space, architecture, mixtures)
    total, done, selections = sum(len(each.removals) for each in questions), 0, []

    def told(settled: int) -> None:
        if progress is not None:
            progress(done + settled, total)

    for question in questions:
        found = race(
            partial(_measured, losses, question.removals),
            len(question.removals),
            batches,
            kept=len(question.chosen),
            confidence=confidence,
            left_behind=told,
        )
        selections.append(question.answer(found))
        done += len(question.removals)
        told(0)
    return SelectionErrors(tuple(selections), confidence)


def _measured(
    losses: Callable[[Mixtures, int], Tensor], removals: Sequence[Mixtures], removal: int, batch: int
) -> Tensor:
    return losses(removals[removal], batch)
