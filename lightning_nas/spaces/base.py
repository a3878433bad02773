"""What a search space is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.spaces.attention import Attention

CROSSOVERS = 100
"""Children that are drawn before there is none."""

AllowedNames = Mapping[str, Sequence[Sequence[str]]]
"""Names of the operations that every edge may take, a list an edge, by cell type."""


class Mixture(NamedTuple):
    """The weights of one cell type in a supernet's forward pass.

    Attributes:
        operations: Factor of every operation's output, ``(edges, operations)``.
        edges: Factor of whatever passes an edge beside its operations (the unsampled channels of partial
            connections), ``(edges,)``.
        active: Which operations are computed, bool ``(edges, operations)`` on the CPU; the factors of the others must
            be zero. What is skipped gets no gradient and moves no batch-norm statistics. None computes all.
    """

    operations: Tensor
    edges: Tensor
    active: Tensor | None = None

    def detached(self) -> "Mixture":
        """The same factors without gradients."""
        return Mixture(self.operations.detach(), self.edges.detach(), self.active)

    def to(self, device: torch.device) -> "Mixture":
        """The same factors on a device; ``active`` stays on the CPU."""
        return Mixture(self.operations.to(device), self.edges.to(device), self.active)


def _once_counted(cell: nn.Module) -> tuple[Any, Any]:
    """Contexts of the two forward passes of a checkpoint: the second leaves the batch-norm statistics alone."""
    return nullcontext(), _unmoved_buffers(cell)


@contextmanager
def _unmoved_buffers(cell: nn.Module) -> Iterator[None]:
    before = [b.clone() for b in cell.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(cell.buffers(), before, strict=True):
            # .data: autograd would take the change for one of a tensor that it holds
            buffer.data.copy_(value)


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


Shape = tuple[int, ...]
Entry = tuple[str, str, Shape, tuple[int | slice, ...], Shape]
"""Public name, own name, full shape of the own tensor, its part, and the shape of the public one."""


class Supernet(nn.Module, ABC):
    """A network that holds every architecture of a differentiable space, with shared weights.

    Attributes:
        cells: The cells in order.
        checkpoint_cells: Whether ``run`` computes cells again in the backward pass instead of keeping what is inside.
    """

    cells: nn.ModuleList
    checkpoint_cells: bool = False

    def run(self, cell: nn.Module, *inputs: Any) -> Any:
        """Call a cell."""
        if not (self.checkpoint_cells and self.training and torch.is_grad_enabled()):
            return cell(*inputs)
        twice = partial(_once_counted, cell)
        return checkpoint(cell, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=twice)

    @abstractmethod
    def forward(self, x: Tensor, mixtures: Mapping[str, Mixture]) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, classes)``.

        Args:
            x: Normalised images.
            mixtures: A mixture a cell type.
        """

    @abstractmethod
    def per_edge(self) -> Iterator[Entry]:
        """The tensors in the naming of the public code; those of attention, which it lacks, are left out."""

    @abstractmethod
    def owner(self, public: str) -> tuple[str, int, int] | None:
        """Cell type, edge and operation, as indices into the alphas, that a tensor belongs to.

        Args:
            public: One of the public names of ``per_edge``.

        Returns:
            None for what belongs to no operation, such as a stem.
        """


class SearchSpace(ABC):
    """A set of architectures: sampling, neighbourhood, identity, networks.

    Every random choice takes an explicit generator, so that a search can be repeated.
    """

    @abstractmethod
    def spec(self) -> SpaceSpec:
        """What identifies this space in an artifact."""

    @property
    @abstractmethod
    def num_values(self) -> tuple[int, ...]:
        """How many values every choice of an architecture has; not all combinations need to be architectures."""

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

    def crossover(self, first: Architecture, second: Architecture, generator: torch.Generator) -> Architecture:
        """A child of two: every choice is that of either parent, with equal chances.

        Where that is no architecture it is drawn again; the first parent is the child where that fails too often.
        """
        parents = torch.tensor([first.choices, second.choices])
        for _ in range(CROSSOVERS):
            picks = torch.randint(2, (1, parents.shape[1]), generator=generator)
            try:
                return self.architecture(parents.gather(0, picks)[0].tolist())
            except ArchitectureError:
                continue
        return first

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


class SupernetSpace(SearchSpace):
    """A space that one network with shared weights holds all architectures of."""

    @abstractmethod
    def supernet(self, *, num_classes: int, image_shape: Sequence[int]) -> nn.Module:
        """Build the supernet: it maps images, and what ``to_path`` says of an architecture, to logits.

        Args:
            num_classes: Width of the classifier.
            image_shape: ``(channels, height, width)`` of an image.

        Raises:
            DataError: The images are too small.
        """

    @abstractmethod
    def to_path(self, architecture: Architecture) -> Any:
        """What makes the supernet compute an architecture: the second argument of its forward pass."""

    def arguments(self) -> dict[str, Any]:
        """Arguments of the class, as JSON values, that make a space with the same supernet."""
        return dict(self.spec().arguments)


class DifferentiableSpace(SupernetSpace):
    """A space whose cells are mixtures of operations on edges.

    Attributes:
        cell_types: Names of the cell types; each has its own alphas.
        operations: Names of the operations, in the order of the alphas' columns.
        nodes: For every node that sums edges, the slice of its edges in the alphas' rows.
        allowed: Which operations every edge may take, bool ``(edges, operations)`` a cell type; see ``restrict``.
    """

    cell_types: tuple[str, ...]
    operations: tuple[str, ...]
    nodes: tuple[slice, ...]
    allowed: dict[str, Tensor]

    def arguments(self) -> dict[str, Any]:
        """See ``SupernetSpace.arguments``."""
        return {**super().arguments(), "allowed": self._narrowed({})}

    @property
    def edges(self) -> int:
        """Edges of a cell: rows of the alphas."""
        return int(self.nodes[-1].stop)

    @property
    def none(self) -> int | None:
        """Column of an operation ``none`` that is never chosen; None where there is none, or where it may be chosen."""
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
    def restrict(self, allowed: Mapping[str, Tensor]) -> "DifferentiableSpace":
        """The part of this space in which every edge takes one of some operations.

        Its supernet has no weights of the others; alphas keep their shape. Architectures of both are
        interchangeable. ``lightning_nas.spaces.convert.inherit`` hands weights on.

        Args:
            allowed: Bool ``(edges, operations)`` of cell types; it may only take away.

        Raises:
            ConfigError: A shape is wrong, an operation was not allowed before, or a node is left without inputs.
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

    def _masks(self, names: AllowedNames | None) -> dict[str, Tensor]:
        """``allowed`` from names of operations, a list an edge; every operation where a cell type is not named.

        Raises:
            ConfigError: A cell type, the number of edges or an operation is wrong.
        """
        masks = {cell: torch.ones(self.edges, len(self.operations), dtype=torch.bool) for cell in self.cell_types}
        for cell, rows in (names or {}).items():
            unknown = sorted({name for row in rows for name in row} - set(self.operations))
            if cell not in masks or len(rows) != self.edges or unknown:
                raise ConfigError(
                    f"allowed[{cell!r}] has {len(rows)} edges and names {unknown or 'known operations'}; it takes one "
                    f"of {list(self.cell_types)}, {self.edges} lists, one an edge, of {list(self.operations)}."
                )
            masks[cell] = torch.tensor([[name in row for name in self.operations] for row in rows], dtype=torch.bool)
        return masks

    def _narrowed(self, allowed: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        """The names of what a mask for ``restrict`` leaves.

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
                    f"The mask of {cell!r} allows (edge, operation) {added[:3]}, which this space does not; restrict "
                    "only takes away. Start from the wider space."
                )
            masks[cell] = mask.cpu()
        return {
            cell: [[name for name, on in zip(self.operations, row, strict=True) if on] for row in mask.tolist()]
            for cell, mask in masks.items()
        }

    def to_path(self, architecture: Architecture) -> dict[str, Mixture]:
        """Factors under which the supernet is an architecture: one for what it keeps, zero for what is skipped."""
        mixtures = {}
        for name, kept in self.chosen(architecture).items():
            active = torch.zeros(self.edges, len(self.operations), dtype=torch.bool)
            active[tuple(torch.tensor(kept).t())] = True
            dtype = torch.get_default_dtype()
            mixtures[name] = Mixture(active.to(dtype), active.any(1).to(dtype), active)
        return mixtures
