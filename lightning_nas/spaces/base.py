"""Interfaces of search spaces."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.files.classes import class_path
from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.graph import Graph
from lightning_nas.spaces.operations import Operation
from lightning_nas.spaces.rebuildable import plain_arguments
from lightning_nas.spaces.supernet import Mixture, Supernet

MAX_CROSSOVERS = 100
"""Number of children that a crossover draws before it gives up."""

MAX_LISTED = 1_000_000
"""Largest number of combinations of choices, valid or not, of a space that is listed by trying them all."""

AllowedNames = Mapping[str, Sequence[Sequence[str]]]
"""For cell types, the names of the operations that each edge may take: one list per edge."""

Features = Mapping[str, Mapping[str, float]]
"""Features of an architecture: for every group, its numbers by name. A name that is left out stands for zero."""


class SearchSpace(ABC):
    """A set of architectures.

    All random choices take an explicit generator, so that a search can be repeated.
    """

    def spec(self) -> SpaceSpec:
        """Return the identity of the space, by which artifacts name it and rebuild it.

        By default the class with all of its constructor arguments, which the space must keep as attributes of the same
        names; they must be JSON values. Override it where arguments do not decide which architectures there are, such
        as the sizes of a supernet.

        Raises:
            ConfigError: An argument is not kept as an attribute, or is not a JSON value.
        """
        return self._spec_of_arguments

    @cached_property
    def _spec_of_arguments(self) -> SpaceSpec:
        return SpaceSpec(class_path(type(self)), tuple(plain_arguments(self).items()))

    @property
    @abstractmethod
    def num_values(self) -> tuple[int, ...]:
        """Number of values of every choice of an architecture. Some combinations may not be architectures."""

    @property
    def tokens(self) -> tuple[tuple[int, ...], ...]:
        """Places of the choices that belong together, such as all that a vertex of a graph chooses.

        A sequence model reads and writes such a group as one token. By default every choice is a group of its own.
        """
        return tuple((place,) for place in range(len(self.num_values)))

    @abstractmethod
    def check(self, architecture: Architecture) -> None:
        """Check that an architecture is a point of this space.

        Args:
            architecture: Any architecture.

        Raises:
            ArchitectureError: It is not.
        """

    @abstractmethod
    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw an architecture uniformly from the whole space.

        Args:
            generator: Source of randomness, on the CPU.
        """

    @abstractmethod
    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Yield all architectures that differ in one choice.

        Args:
            architecture: A point of this space.
        """

    @abstractmethod
    def largest(self) -> Architecture:
        """Return the architecture with the most parameters, or one of them."""

    def parameter_count(self, architecture: Architecture) -> int:
        """Return the size of an architecture: its number of parameters, by which two architectures can be compared.

        By default this is the number of parameters of its network with 16 channels and ``least_cells`` cells.
        Operations that have no effect on the output should not count.

        Args:
            architecture: A point of this space.
        """
        taken = inspect.signature(self.network).parameters
        every = any(each.kind is each.VAR_KEYWORD for each in taken.values())
        sizes = {"channels": 16, "cells": self.least_cells}
        sizes = {name: size for name, size in sizes.items() if every or name in taken}
        with torch.random.fork_rng(devices=[]):  # the modules draw their weights
            network = self.network(architecture, num_classes=10, image_shape=(3, 64, 64), **sizes)
        return sum(parameter.numel() for parameter in network.parameters())

    @abstractmethod
    def network(self, architecture: Architecture, *args: Any, **options: Any) -> nn.Module:
        """Build the ordinary network of an architecture, which maps images to logits.

        A space states which of these arguments it takes, as keywords: ``num_classes`` and ``image_shape`` always;
        ``channels``, ``cells`` and ``auxiliary`` only where its networks have such a size. What trains, scores or
        measures networks leaves out what a space does not take. Further arguments need defaults.

        What else the network may have:

        - An attribute ``arguments``, a dictionary of the constructor arguments of its class, for the export as plain
          Python, which builds the network from the source of its class; see ``lightning_nas.export.PlainFile``.
        - An attribute ``drop``, the probability of dropping a path, which a training with ``drop_path`` sets.
        - A method ``forward_auxiliary``, which returns the logits and those of the auxiliary classifier, where
          ``auxiliary`` is taken.

        Args:
            architecture: A point of this space.
            *args: None.
            **options: ``num_classes``, the number of classes; ``image_shape``, the shape of an image, ``(channels,
                height, width)``; ``channels``, those of the first cell; ``cells``, their number; ``auxiliary``, whether
                to add an auxiliary classifier for training.

        Raises:
            ArchitectureError: The architecture belongs to another space.
            DataError: The images are too small.
        """

    @property
    def least_cells(self) -> int:
        """Smallest number of cells of a network on which every choice of an architecture has an effect; 1 by default.

        A network with fewer says nothing about some of the choices.
        """
        return 1

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """Return the cells as graphs for drawing; none by default, and reports then show the text alone.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        return []

    def key(self, architecture: Architecture) -> str:
        """Return a canonical identity, which is equal for architectures with the same network.

        Queries are counted by it.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        return ",".join(map(str, architecture.choices))

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the form that all architectures with the same key share.

        Args:
            architecture: A point of this space.
        """
        return architecture

    def listing(self) -> Any:
        """Return the choices of all architectures in canonical form, each once, an integer array ``(n, choices)``.

        By default all combinations of choices are tried, which takes time in proportion to their number. Constraints on
        cost are not checked, because a cost may take a measurement.

        Raises:
            ConfigError: There are more than ``MAX_LISTED`` combinations.
        """
        combinations = prod(self.num_values)
        if combinations > MAX_LISTED:
            raise ConfigError(
                f"{type(self).__name__} has {combinations:.1e} combinations of choices; at most {MAX_LISTED} can be "
                "listed. Use random architectures instead, such as with pool: 5000."
            )
        spec = self.spec()
        found: dict[str, tuple[int, ...]] = {}
        for choices in product(*map(range, self.num_values)):
            architecture = Architecture(spec, choices)
            try:
                found.setdefault(self.key(architecture), self.canonical(architecture).choices)
            except ArchitectureError:
                continue
        return np.array(list(found.values()), np.int64)

    def text(self, architecture: Architecture) -> str:
        """Return the published textual form of an architecture.

        Args:
            architecture: A point of this space.
        """
        return self.key(architecture)

    def features(self, architecture: Architecture) -> Features:
        """Return numbers that describe an architecture, in groups.

        Predictors compare architectures by them and weight each group as a whole. By default there are two groups:
        ``choices`` says which value each choice has, and ``values`` holds the values as fractions of the largest one,
        for choices whose values are in order, such as widths. What a network computes, and logarithms of its sizes,
        predict performance better than how it is written.

        Args:
            architecture: A point of this space.

        Example:
            ```python
            def features(self, architecture):
                widths = {str(i): math.log(width) for i, width in enumerate(self.widths(architecture))}
                return {**super().features(architecture), "widths": widths}
            ```
        """
        self.check(architecture)
        pairs = list(enumerate(zip(architecture.choices, self.num_values, strict=True)))
        return {
            "choices": {f"{i}={choice}": 1.0 for i, (choice, _) in pairs},
            "values": {str(i): choice / max(count - 1, 1) for i, (choice, count) in pairs},
        }

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """Draw a neighbour uniformly.

        Args:
            architecture: A point of this space.
            generator: Source of randomness, on the CPU.
        """
        near = list(self.neighbours(architecture))
        return near[int(torch.randint(len(near), (1,), generator=generator))]

    def crossover(self, first: Architecture, second: Architecture, generator: torch.Generator) -> Architecture:
        """Draw a child of two architectures, which takes every choice from either parent with equal probability.

        Choices that do not make an architecture are drawn again; after ``MAX_CROSSOVERS`` failures, the child is the
        first parent.

        Args:
            first: A point of this space.
            second: Another one.
            generator: Source of randomness, on the CPU.
        """
        parents = torch.tensor([first.choices, second.choices], device="cpu")
        for _ in range(MAX_CROSSOVERS):
            picks = torch.randint(2, (1, parents.shape[1]), generator=generator)
            try:
                return self.architecture(parents.gather(0, picks)[0].tolist())
            except ArchitectureError:
                continue
        return first

    def architecture(self, choices: Sequence[int]) -> Architecture:
        """Build and check an architecture of this space.

        Args:
            choices: The choices.

        Raises:
            ArchitectureError: The choices are not a point of this space.
        """
        made = Architecture(self.spec(), tuple(int(c) for c in choices))
        self.check(made)
        return made

    def check_spec(self, architecture: Architecture) -> None:
        """Check that an architecture names this space.

        Args:
            architecture: Any architecture.

        Raises:
            ArchitectureError: It names another space.
        """
        if architecture.space != self.spec():
            raise ArchitectureError(
                f"The architecture is of {architecture.space}, but {self.spec()} was expected. "
                "Use the space that the search used."
            )


class SupernetSpace(SearchSpace):
    """A search space that has a supernet: one network with shared weights for all architectures."""

    @abstractmethod
    def supernet(self, *, num_classes: int, image_shape: Sequence[int]) -> nn.Module:
        """Build the supernet, which maps images and a path (see ``to_path``) to logits.

        Args:
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.

        Raises:
            DataError: The images are too small.
        """

    @abstractmethod
    def to_path(self, architecture: Architecture) -> Any:
        """Return the second argument of the supernet's forward pass with which it computes an architecture.

        Args:
            architecture: A point of this space.
        """

    def arguments(self) -> dict[str, Any]:
        """Return constructor arguments, as JSON values, that make a space with the same supernet."""
        return dict(self.spec().arguments)


class DifferentiableSpace(SupernetSpace):
    """A space whose supernet mixes operations on the edges of cells.

    Attributes:
        cell_types: Names of the cell types; each has its own alphas.
        candidates: The operations, in the order of the columns of the alphas.
        operations: Their names.
        nodes: For every node that sums edges, the slice of its edges among the rows of the alphas.
        allowed: Which operations every edge may take, bool ``(edges, operations)`` by cell type; see ``restrict``.
    """

    cell_types: tuple[str, ...]
    candidates: tuple[Operation, ...]
    operations: tuple[str, ...]
    nodes: tuple[slice, ...]
    allowed: dict[str, Tensor]

    def arguments(self) -> dict[str, Any]:
        """See ``SupernetSpace.arguments``."""
        return {**super().arguments(), "allowed": self._narrowed({})}

    @property
    def edges(self) -> int:
        """Number of edges of a cell, which is the number of rows of the alphas."""
        return int(self.nodes[-1].stop)

    @property
    @abstractmethod
    def inputs_kept(self) -> int | None:
        """Number of edges that each node of an architecture keeps; None if it keeps all of them."""

    @property
    def selectable(self) -> dict[str, Tensor]:
        """The operations that an architecture may take, bool ``(edges, operations)`` by cell type.

        These are the allowed ones. Where nodes keep a fixed number of edges, a kept edge never takes ``none``.
        """
        if self.inputs_kept is None:
            return dict(self.allowed)
        useful = torch.tensor([not operation.is_none for operation in self.candidates], device="cpu")
        return {name: mask & useful for name, mask in self.allowed.items()}

    @abstractmethod
    def supernet(self, *, num_classes: int, image_shape: Sequence[int], attention: Attention | None = None) -> Supernet:
        """Build the supernet.

        Args:
            num_classes: Number of classes.
            image_shape: Shape of an image, ``(channels, height, width)``.
            attention: Attention over channels inside the mixtures, or None.

        Raises:
            DataError: The images are too small.
        """

    @abstractmethod
    def restrict(self, allowed: Mapping[str, Tensor]) -> "DifferentiableSpace":
        """Return the part of this space in which every edge may take only some operations.

        The supernet of the part has no weights of the others, while the alphas keep their shape. The architectures of
        both spaces are interchangeable. ``convert.inherit`` copies the weights of one supernet to the other.

        Args:
            allowed: Bool ``(edges, operations)`` by cell type; it can only remove operations. Cell types that are left
                out stay as they are.

        Raises:
            ConfigError: A shape is wrong, an operation was not allowed before, or a node is left without enough inputs.
        """

    @abstractmethod
    def select(self, scores: Mapping[str, Tensor]) -> Architecture:
        """Return the architecture with the highest-scored edges and operations.

        Args:
            scores: Scores ``(edges, operations)`` by cell type; higher is better.
        """

    @abstractmethod
    def chosen(self, architecture: Architecture) -> dict[str, list[tuple[int, int]]]:
        """Return the kept edges of every cell type with their operations, as indices into the alphas.

        Args:
            architecture: A point of this space.
        """

    def to_path(self, architecture: Architecture) -> dict[str, Mixture]:
        """Return the mixtures with which the supernet computes an architecture.

        Factors are one for the operations of the architecture and zero for all others, which are not computed.

        Args:
            architecture: A point of this space.
        """
        mixtures = {}
        for name, kept in self.chosen(architecture).items():
            active = torch.zeros(self.edges, len(self.operations), dtype=torch.bool, device="cpu")
            active[tuple(torch.tensor(kept, device="cpu").t())] = True
            dtype = torch.get_default_dtype()
            mixtures[name] = Mixture(active.to(dtype), active.any(1).to(dtype), active)
        return mixtures

    def _masks(self, names: AllowedNames | None) -> dict[str, Tensor]:
        """Convert names of operations to masks; a cell type that is not named may take every operation.

        Raises:
            ConfigError: A cell type, the number of edges or an operation is wrong.
        """
        every = torch.ones(self.edges, len(self.operations), dtype=torch.bool, device="cpu")
        masks = {cell: every.clone() for cell in self.cell_types}
        for cell, rows in (names or {}).items():
            unknown = sorted({name for row in rows for name in row} - set(self.operations))
            if cell not in masks or len(rows) != self.edges or unknown:
                raise ConfigError(
                    f"allowed[{cell!r}] has {len(rows)} edges and names {unknown or 'known operations'}. Give a cell "
                    f"type of {list(self.cell_types)} and {self.edges} lists, one per edge, with names from "
                    f"{list(self.operations)}."
                )
            masks[cell] = torch.tensor(
                [[name in row for name in self.operations] for row in rows], dtype=torch.bool, device="cpu"
            )
        return masks

    def _narrowed(self, allowed: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        """Return the names of the operations that remain after a restriction.

        Raises:
            ConfigError: A cell type or shape is wrong, or an operation was not allowed before.
        """
        masks = dict(self.allowed)
        for cell, mask in allowed.items():
            if cell not in masks or mask.dtype != torch.bool or mask.shape != masks[cell].shape:
                raise ConfigError(
                    f"The mask of {cell!r} is {mask.dtype} of shape {tuple(mask.shape)}; restrict takes bool masks of "
                    f"shape {(self.edges, len(self.operations))} for {list(self.cell_types)}."
                )
            added = (mask.cpu() & ~masks[cell]).nonzero().tolist()
            if added:
                raise ConfigError(
                    f"The mask of {cell!r} allows (edge, operation) {added[:3]}, which this space does not allow; "
                    "restrict can only remove operations. Start from the wider space."
                )
            masks[cell] = mask.cpu()
        return {
            cell: [[name for name, on in zip(self.operations, row, strict=True) if on] for row in mask.tolist()]
            for cell, mask in masks.items()
        }
