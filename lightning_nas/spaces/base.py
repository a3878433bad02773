"""What a search space is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.differentiable.attention.base import Attention
from lightning_nas.errors import ArchitectureError


class Mixture(NamedTuple):
    """The weights of one cell type in a supernet's forward pass.

    Attributes:
        operations: Factor of every operation's output, ``(edges, operations)``.
        edges: Factor of whatever passes an edge beside its operations (the unsampled channels of partial
            connections), ``(edges,)``.
    """

    operations: Tensor
    edges: Tensor


@dataclass(frozen=True)
class Graph:
    """A cell for drawing.

    Attributes:
        name: Cell type.
        nodes: Labels.
        edges: ``(source, target, label)`` by node index.
    """

    name: str
    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]


class Supernet(nn.Module, ABC):
    """A network that holds every architecture of a differentiable space, with shared weights."""

    @abstractmethod
    def forward(self, x: Tensor, mixtures: Mapping[str, Mixture]) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, classes)``.

        Args:
            x: Normalised images.
            mixtures: A mixture a cell type.
        """


class SearchSpace(ABC):
    """A set of architectures: sampling, neighbourhood, identity, networks.

    Every random choice takes an explicit generator, so that a search can be repeated.
    """

    @abstractmethod
    def spec(self) -> SpaceSpec:
        """What identifies this space in an artifact."""

    @abstractmethod
    def check(self, architecture: Architecture) -> None:
        """Raise ``ArchitectureError`` unless the architecture is a point of this space."""

    @abstractmethod
    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw uniformly from the whole space."""

    @abstractmethod
    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures that differ in one choice."""

    @abstractmethod
    def largest(self) -> Architecture:
        """The architecture with most parameters."""

    @abstractmethod
    def network(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        image_shape: Sequence[int],
        channels: int,
        cells: int,
        auxiliary: bool = False,
    ) -> nn.Module:
        """Build the ordinary network of an architecture.

        Args:
            architecture: A point of this space.
            num_classes: Width of the classifier.
            image_shape: ``(channels, height, width)`` of an image.
            channels: Channels of the first cell's operations.
            cells: Number of cells.
            auxiliary: Whether to add an auxiliary classifier for training.

        Raises:
            ArchitectureError: The architecture is of another space.
            DataError: The images are too small.
        """

    @abstractmethod
    def graphs(self, architecture: Architecture) -> list[Graph]:
        """The cells as graphs, for drawing."""

    def key(self, architecture: Architecture) -> str:
        """Canonical identity: equal for architectures that are the same network. Queries are counted by it."""
        self.check(architecture)
        return ",".join(map(str, architecture.choices))

    def text(self, architecture: Architecture) -> str:
        """The architecture in the field's published textual form."""
        return self.key(architecture)

    def mutate(self, architecture: Architecture, generator: torch.Generator) -> Architecture:
        """A uniformly drawn neighbour."""
        near = list(self.neighbours(architecture))
        return near[int(torch.randint(len(near), (1,), generator=generator))]

    def architecture(self, choices: Sequence[int]) -> Architecture:
        """Make an architecture of this space and check it.

        Raises:
            ArchitectureError: The choices are no point of this space.
        """
        made = Architecture(self.spec(), tuple(int(c) for c in choices))
        self.check(made)
        return made

    def check_spec(self, architecture: Architecture) -> None:
        """Raise ``ArchitectureError`` where an architecture names another space."""
        if architecture.space != self.spec():
            raise ArchitectureError(
                f"The architecture is of {architecture.space}, but {self.spec()} was expected. "
                "Use the space that the search used."
            )


class DifferentiableSpace(SearchSpace):
    """A space whose cells are mixtures of operations on edges.

    Attributes:
        cell_types: Names of the cell types; each has its own alphas.
        operations: Names of the operations, in the order of the alphas' columns.
        nodes: For every node that sums edges, the slice of its edges in the alphas' rows.
    """

    cell_types: tuple[str, ...]
    operations: tuple[str, ...]
    nodes: tuple[slice, ...]

    @property
    def edges(self) -> int:
        """Edges of a cell: rows of the alphas."""
        return int(self.nodes[-1].stop)

    @property
    def none(self) -> int | None:
        """Column of the operation ``none``, which is never chosen; None where the space has no such operation."""
        return self.operations.index("none") if "none" in self.operations else None

    @property
    @abstractmethod
    def inputs_kept(self) -> int | None:
        """Edges that a node keeps when discretized; None where it keeps all of them."""

    @abstractmethod
    def supernet(self, *, num_classes: int, image_shape: Sequence[int], attention: Attention | None = None) -> Supernet:
        """Build the supernet.

        Args:
            num_classes: Width of the classifier.
            image_shape: ``(channels, height, width)`` of an image.
            attention: What weights channels or operations inside the mixtures.

        Raises:
            DataError: The images are too small.
        """

    @abstractmethod
    def select(self, scores: Mapping[str, Tensor]) -> Architecture:
        """Choose edges and operations by score.

        Args:
            scores: ``(edges, operations)`` a cell type; the higher, the better.
        """

    @abstractmethod
    def chosen(self, architecture: Architecture) -> dict[str, list[tuple[int, int]]]:
        """The kept ``(edge, operation)`` pairs of every cell type, as indices into the alphas."""
