"""Evolution of alphas in a shrinking space: pEvoNAS (Sinha and Chen, GECCO 2022)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.checks import at_least, within
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.strategies.alphas import ROUNDS, AlphaEvolution


class PEvoNAS(AlphaEvolution):
    """Runs a genetic algorithm on alphas, in a space that shrinks around the winner.

    Parents are the winners of tournaments. A child takes every row from either of two parents, and each row mutates
    into uniform numbers with probability ``mutation``. Once the winner has stayed the same for ``patience``
    generations, every choice keeps only the values with the largest alphas of the winner, and the algorithm starts
    again in this smaller space, with the winner among random individuals (so that it is not lost; the paper says
    nothing about this). After the last shrinking, everything starts again in the whole space, or the search ends.

    Departure from the paper, which trains a supernet anew for every part of the space, on random alphas: within a run
    the evaluator stays the same. The paper's method is a chain of runs, two per link. ``SupernetTask`` trains a
    supernet, here on uniform paths; then ``EvolveTask`` searches it with ``keep`` empty, ``restarts`` off and the
    callback ``NarrowedSpace``, which writes ``space.yaml``. Both runs of the next link read this file, and the supernet
    starts from the previous link's ``supernet.safetensors``, whose weights the remaining operations inherit. The search
    of the last link gives the answer.

    References:
        1. Sinha, Chen: Neural Architecture Search using Progressive Evolution, GECCO 2022,
           https://arxiv.org/abs/2203.01559

    Args:
        population_size: Number of individuals per generation, at least 2.
        elites: Number of best individuals that survive unchanged, at least 1 and less than ``population_size``.
        tournament_size: Number of individuals that compete to be a parent, from 1 to ``population_size``.
        mutation: Probability that a row mutates, in [0, 1].
        patience: Number of generations with the same winner that end the algorithm in a space, at least 1.
        generations: Largest number of generations in a space, at least 1; the paper uses 100 in NAS-Bench-201.
        keep: Number of values that every choice keeps, one number per shrinking, descending.
        restarts: Whether to start again in the whole space after the last shrinking, instead of ending the search.
        rescore: Whether the whole population, with its elites, is evaluated in every generation, for scores that
            change. The best individual is then the best of the last generation.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: PEvoNAS, init_args: {population_size: 20, keep: [3, 2]}}
        ```
    """

    def __init__(
        self,
        population_size: int = 20,
        *,
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
            raise ConfigError(f"keep is {list(keep)}; it must be descending positive integers, such as 3, 2.")
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
        """Begin a new search; see ``Strategy.start``."""
        super().start(*args, **kwargs)
        self._whole = self.masks
        self._record: tuple[float, Tensor] | None = None  # fitness and alphas of the best individual of earlier ones
        self._shrunk = 0
        self._reset_counts()

    def _reset_counts(self) -> None:
        """Count generations from here."""
        self._number = 0
        self._same = 0
        self._winner = ""

    @property
    def alphas(self) -> Tensor:
        """Alphas of the best individual so far, ``(choices, values)``; among equals of the first.

        Raises:
            ConfigError: Nothing has been evaluated yet.
        """
        if (record := self._leader()) is None:
            raise ConfigError("Nothing has been evaluated yet, so there is no best individual. Evaluate some first.")
        return record[1]

    def _leader(self) -> tuple[float, Tensor] | None:
        """Fitness and alphas of the best individual so far."""
        # a generation that was scored anew is not comparable with earlier records
        record = None if self.rescore and self.generation and not self._due else self._record
        for alphas, key in zip(self.members, self.keys, strict=True):
            value = self.fitness.get(key)
            if value is not None and (record is None or value > record[0]):
                record = (value, alphas)
        return record

    def breed(self) -> Tensor:
        """Make children, or where the winner has stayed the same, shrink the space; see ``AlphaEvolution.breed``."""
        if not self.generation:
            return self.unseen_alphas()
        fitness = torch.tensor([self.fitness[key] for key in self.keys], dtype=torch.float64)
        order = fitness.argsort(descending=True, stable=True)
        winner = self.keys[int(order[0])]
        self._record = self._leader()
        self._same = self._same + 1 if winner == self._winner else 1
        self._winner = winner
        self._number += 1
        if self._same < self.patience and self._number < self.generations:
            return self._children(self.members[order])
        self._reset_counts()
        if self._shrunk < len(self.keep):
            return self._shrink_around(self.members[order[0]])
        return self._restart()

    def _shrink_around(self, winner: Tensor) -> Tensor:
        """Shrink the space, and begin there with the winner and random individuals."""
        self.masks = shrink(winner, self.keep[self._shrunk], self.masks)
        self._shrunk += 1
        found = (winner * self.masks).unsqueeze(0)
        return self._filled(found, lambda: self.uniform(self.population_size))

    def _restart(self) -> Tensor:
        if not self.restarts:
            return self.no_alphas()
        self.masks = self._whole
        self._shrunk = 0
        found = self.unseen_alphas()
        self._whole = self.masks
        return found

    def _children(self, members: Tensor) -> Tensor:
        """The elites and children of all members, which are sorted from best to worst."""
        return self._filled(members[: self.elites], lambda: self.cross_and_mutate(members))

    def _filled(self, found: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """Alphas with further ones that are drawn; fewer than a generation where few of them are architectures."""
        for _ in range(ROUNDS):
            if len(found) >= self.population_size:
                break
            found = torch.cat([found, self.valid(draw())])
        return found[: self.population_size]

    def cross_and_mutate(self, members: Tensor) -> Tensor:
        """Draw the children of a generation.

        Args:
            members: Alphas of the parents from best to worst, ``(n, choices, values)``.

        Returns:
            Alphas of the children, ``(population_size, choices, values)``, which need not stand for architectures.
        """
        size = (self.population_size, len(self.masks), 1)
        mothers, fathers = members[self.draw_parents(len(members))], members[self.draw_parents(len(members))]
        children = torch.where(torch.rand(size, generator=self.generator) < 0.5, mothers, fathers)
        mutated = torch.rand(size, generator=self.generator) < self.mutation
        return torch.where(mutated, self.uniform(self.population_size), children)

    def draw_parents(self, count: int) -> list[int]:
        """The winners of ``population_size`` tournaments among ``count`` individuals sorted from best to worst."""
        drawn = [
            torch.randperm(count, generator=self.generator)[: self.tournament_size] for _ in range(self.population_size)
        ]
        return [int(places.min()) for places in drawn]

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        counts = {"number": self._number, "same": self._same, "winner": self._winner, "shrunk": self._shrunk}
        return {**super().state_dict(), **counts, "whole": self._whole, "record": self._record}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self._number, self._same = state["number"], state["same"]
        self._winner, self._shrunk = state["winner"], state["shrunk"]
        self._whole, self._record = state["whole"], state["record"]


def shrink(alphas: Tensor, keep: int, masks: Tensor | None = None) -> Tensor:
    """Mark the values with the largest alphas of every choice.

    Args:
        alphas: Alphas, ``(choices, values)``.
        keep: Number of values per choice to keep, at least 1; all where a choice has fewer.
        masks: Which values exist, bool ``(choices, values)``; by default all.

    Returns:
        Which values are kept, bool ``(choices, values)``. Where every choice is the operation of an edge,
        ``DifferentiableSpace.restrict`` takes them.

    Raises:
        ConfigError: ``keep`` is less than 1, alphas and masks differ in shape, or an alpha is not finite.
    """
    at_least(1, keep=keep)
    masks = torch.ones_like(alphas, dtype=torch.bool) if masks is None else masks
    if alphas.dim() != 2 or masks.shape != alphas.shape or not alphas.isfinite().all():
        raise ConfigError(
            f"alphas have shape {tuple(alphas.shape)}, {int((~alphas.isfinite()).sum())} of them not finite, and masks "
            f"have shape {tuple(masks.shape)}; they must be finite alphas (choices, values), and masks of the same "
            "shape."
        )
    order = alphas.detach().masked_fill(~masks, -torch.inf).argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(masks).scatter(1, order[:, :keep], True)
    return kept & masks


def narrowed(
    space: DifferentiableSpace, alphas: Tensor, keep: int, masks: Tensor | None = None
) -> dict[str, list[list[str]]]:
    """The argument ``allowed`` of a space in which every edge keeps the operations with the largest alphas.

    Args:
        space: A space with a single cell type, in which every choice is the operation of an edge.
        alphas: Alphas, ``(edges, operations)``.
        keep: Number of operations per edge to keep, at least 1; all where an edge has fewer.
        masks: Which operations exist, bool ``(edges, operations)``; by default those that the space allows.

    Returns:
        Names of operations by cell type, one list per edge.

    Raises:
        ConfigError: The space is of another kind, or an argument is refused by ``shrink``.
    """
    cell = single_cell_type(space)
    kept = shrink(alphas, keep, space.allowed[cell] if masks is None else masks)
    allowed: dict[str, list[list[str]]] = space.restrict({cell: kept}).arguments()["allowed"]
    return allowed


def single_cell_type(space: Any) -> str:
    """The cell type of a space that can be narrowed to some operations per edge.

    Args:
        space: Any search space.

    Raises:
        ConfigError: The space has several cell types, or choices that are not operations of edges.
    """
    if (
        not isinstance(space, DifferentiableSpace)
        or len(space.cell_types) != 1
        or space.num_values != (len(space.operations),) * space.edges
    ):
        raise ConfigError(
            f"{type(space).__name__} cannot be narrowed to some operations per edge: every choice must be the "
            "operation of an edge of a single cell type, as in NASBench201Space."
        )
    return space.cell_types[0]
