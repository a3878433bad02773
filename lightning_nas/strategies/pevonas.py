"""Evolution of alphas in a space that shrinks (pEvoNAS)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.checks import at_least, within
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.strategies.alphas import ROUNDS, AlphaEvolution


def shrink(alphas: Tensor, keep: int, masks: Tensor | None = None) -> Tensor:
    """Which values of every choice have the largest alphas.

    Args:
        alphas: ``(choices, values)``.
        keep: Values of every choice that are kept, at least 1; all where it has fewer.
        masks: Which values there are, bool, likewise; by default all.

    Returns:
        Masks, bool ``(choices, values)``: what ``DifferentiableSpace.restrict`` takes where a choice is an edge's
        operation.

    Raises:
        ConfigError: ``keep`` is below 1, alphas and masks are not alike, or an alpha is not finite.
    """
    masks = torch.ones_like(alphas, dtype=torch.bool) if masks is None else masks
    if keep < 1 or alphas.dim() != 2 or masks.shape != alphas.shape or not alphas.isfinite().all():
        raise ConfigError(
            f"keep is {keep}, alphas are of shape {tuple(alphas.shape)}, {int((~alphas.isfinite()).sum())} of them not "
            f"finite, masks of {tuple(masks.shape)}; expected are at least 1, finite alphas (choices, values), and "
            "masks alike."
        )
    order = alphas.detach().masked_fill(~masks, -torch.inf).argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(masks).scatter(1, order[:, :keep], True)
    return kept & masks


def narrowed(
    space: DifferentiableSpace, alphas: Tensor, keep: int, masks: Tensor | None = None
) -> dict[str, list[list[str]]]:
    """The argument ``allowed`` of the part of a space in which every edge takes an operation with a large alpha.

    Args:
        space: With one cell type, of which every choice is an edge's operation.
        alphas: ``(edges, operations)``.
        keep: Operations that an edge keeps, at least 1; all where it has fewer.
        masks: Which operations there are, bool, likewise; by default those that the space allows.

    Returns:
        Names of operations, a list an edge, by cell type.

    Raises:
        ConfigError: The space is another, or see ``shrink``.
    """
    cell = only_cell(space)
    kept = shrink(alphas, keep, space.allowed[cell] if masks is None else masks)
    allowed: dict[str, list[list[str]]] = space.restrict({cell: kept}).arguments()["allowed"]
    return allowed


def only_cell(space: Any) -> str:
    """The cell type of a space that can be narrowed."""
    if (
        not isinstance(space, DifferentiableSpace)
        or len(space.cell_types) != 1
        or space.num_values != (len(space.operations),) * space.edges
    ):
        raise ConfigError(
            f"{type(space).__name__} cannot be narrowed to operations; its choices must be those of the edges of one "
            "cell type, as in lightning_nas.spaces.nasbench201.space.NASBench201Space."
        )
    return space.cell_types[0]


class PEvoNAS(AlphaEvolution):
    """A genetic algorithm over alphas, in a space that shrinks around its winner.

    Parents win tournaments; a child takes every row from either, and rows mutate into uniform ones. Where the winner
    has stayed the same for long, the values with its largest alphas are kept and the others left out, and the algorithm
    begins again within, the winner among random individuals (which keeps it known; the paper does not say). After the
    last one, all begins again in the whole space, or ends.

    The paper trains a supernet anew for every part of the space, on random alphas. Here the evaluator stays the same
    throughout a run. The paper's method is a chain of runs, two a link: ``SupernetTask`` trains a supernet (here on
    uniform paths), and ``EvolveTask`` searches it with ``keep`` empty, ``restarts`` off and the callback
    ``NarrowedSpace``. Both runs of the next link take the ``space.yaml`` that this one writes, and its training starts
    from the former link's ``supernet.safetensors``, which gives the surviving operations their weights. The last link's
    search has the answer.

    References:
        1. Sinha, Chen: Neural Architecture Search using Progressive Evolution, GECCO 2022,
           https://arxiv.org/abs/2203.01559

    Args:
        population_size: Individuals of a generation, at least 2.
        elites: Best individuals that live on, at least 1 and below the population.
        tournament_size: Individuals that compete to be a parent, from 1 to the population.
        mutation: Probability of a row to mutate, from 0 to 1.
        patience: Generations with the same winner that end the algorithm, at least 1.
        generations: Those that end it in any case, at least 1 (the paper: 100 in NAS-Bench-201).
        keep: Values of every choice that are kept, one number a shrinking, decreasing.
        restarts: Whether all begins again after the last shrinking.
        rescore: Whether the whole population is asked for in every generation, elites too: for scores that move. Then
            the best individual is that of the last generation.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        population_size: int = 20,
        elites: int = 1,
        tournament_size: int = 5,
        mutation: float = 0.1,
        patience: int = 10,
        generations: int = 100,
        keep: Sequence[int] = (3, 2),
        restarts: bool = True,
        rescore: bool = False,
    ) -> None:
        at_least(2, population_size=population_size)
        at_least(1, elites=elites, tournament_size=tournament_size, patience=patience, generations=generations)
        within("[0, 1]", mutation=mutation)
        if elites >= population_size:
            raise ConfigError(f"elites is {elites}; it must be less than population_size, {population_size}.")
        if tournament_size > population_size:
            raise ConfigError(
                f"tournament_size is {tournament_size}; it must be at most population_size, {population_size}."
            )
        if any(n < 1 for n in keep) or any(b >= a for a, b in zip(keep, keep[1:], strict=False)):
            raise ConfigError(f"keep is {list(keep)}; it must be numbers from 1 on that decrease, such as 3, 2.")
        self.population_size = population_size
        self.elites = elites
        self.tournament_size = tournament_size
        self.mutation = mutation
        self.patience = patience
        self.generations = generations
        self.keep = tuple(keep)
        self.restarts = restarts
        self.rescore = rescore

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self._whole = self.masks
        self._record: tuple[float, Tensor] | None = None
        self._shrunk = 0
        self._again()

    def _again(self) -> None:
        """Count generations from here."""
        self._number = 0
        self._same = 0
        self._winner = ""

    @property
    def alphas(self) -> Tensor:
        """Those of the best individual so far, ``(choices, values)``; of equals the first.

        Raises:
            ConfigError: Nothing is known of any.
        """
        if (record := self._leader()) is None:
            raise ConfigError("Nothing was evaluated yet, so that nobody is the best. Evaluate some first.")
        return record[1]

    def _leader(self) -> tuple[float, Tensor] | None:
        """Fitness and alphas of the best individual so far."""
        # older records do not compare with a generation that was scored anew
        record = None if self.rescore and self.generation and not self._due else self._record
        for alphas, key in zip(self.members, self.keys, strict=True):
            value = self.fitness.get(key)
            if value is not None and (record is None or value > record[0]):
                record = (value, alphas)
        return record

    def breed(self) -> Tensor:
        """Children; where the winner has stayed the same, random ones in a smaller space; see ``AlphaEvolution``."""
        if not self.generation:
            return self.strangers()
        fitness = torch.tensor([self.fitness[key] for key in self.keys], dtype=torch.float64)
        order = fitness.argsort(descending=True, stable=True)
        winner = self.keys[int(order[0])]
        self._record = self._leader()
        self._same = self._same + 1 if winner == self._winner else 1
        self._winner = winner
        self._number += 1
        if self._same < self.patience and self._number < self.generations:
            return self._children(self.members[order])
        self._again()
        if self._shrunk < len(self.keep):
            return self._within(self.members[order[0]])
        return self._restart()

    def _within(self, winner: Tensor) -> Tensor:
        """Shrink the space around the winner."""
        self.masks = shrink(winner, self.keep[self._shrunk], self.masks)
        self._shrunk += 1
        found = (winner * self.masks).unsqueeze(0)
        return self._filled(found, lambda: self.uniform(self.population_size))

    def _restart(self) -> Tensor:
        if not self.restarts:
            return self.nobody()
        self.masks = self._whole
        self._shrunk = 0
        found = self.strangers()
        self._whole = self.masks
        return found

    def _children(self, members: Tensor) -> Tensor:
        """The elites and children of all, given from the best to the worst."""
        return self._filled(members[: self.elites], lambda: self._crossed_and_mutated(members))

    def _filled(self, found: Tensor, draw: Any) -> Tensor:
        """With what is drawn; fewer than the population where few that are drawn are architectures."""
        for _ in range(ROUNDS):
            if len(found) >= self.population_size:
                break
            found = torch.cat([found, self.valid(draw())])
        return found[: self.population_size]

    def _crossed_and_mutated(self, members: Tensor) -> Tensor:
        size = (self.population_size, len(self.masks), 1)
        mothers, fathers = members[self._parents(len(members))], members[self._parents(len(members))]
        children = torch.where(torch.rand(size, generator=self.generator) < 0.5, mothers, fathers)
        mutated = torch.rand(size, generator=self.generator) < self.mutation
        return torch.where(mutated, self.uniform(self.population_size), children)

    def _parents(self, count: int) -> list[int]:
        """The best of every tournament, which has nobody twice."""
        drawn = [
            torch.randperm(count, generator=self.generator)[: self.tournament_size] for _ in range(self.population_size)
        ]
        return [int(places.min()) for places in drawn]

    def state_dict(self) -> dict[str, Any]:
        """See ``Strategy.state_dict``."""
        counts = {"number": self._number, "same": self._same, "winner": self._winner, "shrunk": self._shrunk}
        return {**super().state_dict(), **counts, "whole": self._whole, "record": self._record}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self._number, self._same = state["number"], state["same"]
        self._winner, self._shrunk = state["winner"], state["shrunk"]
        self._whole, self._record = state["whole"], state["record"]
