"""The interface of supernets, and the mixtures that they compute."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_nas.errors import ConfigError


class Mixture(NamedTuple):
    """The weights of one cell type in a forward pass of a supernet.

    Attributes:
        operations: Factors of the outputs of operations, ``(edges, operations)``.
        edges: Factors of what passes an edge beside its operations, which are the unsampled channels of partial
            connections, ``(edges,)``.
        active: Which operations are computed, bool ``(edges, operations)`` on the CPU; None computes all. The factors
            of the others must be zero. An operation that is not computed gets no gradient, and its batch-norm
            statistics stay unchanged.
        constants: Numbers ``(edges,)`` that are added to every value of what the operations of an edge make together;
            None adds nothing.
    """

    operations: Tensor
    edges: Tensor
    active: Tensor | None = None
    constants: Tensor | None = None

    def detached(self) -> "Mixture":
        """Return the same factors without gradients."""
        constants = None if self.constants is None else self.constants.detach()
        return Mixture(self.operations.detach(), self.edges.detach(), self.active, constants)

    def to(self, device: torch.device) -> "Mixture":
        """Return the same factors on another device; ``active`` stays on the CPU.

        Args:
            device: The device.
        """
        operations, edges = (factors.to(device, non_blocking=True) for factors in (self.operations, self.edges))
        constants = None if self.constants is None else self.constants.to(device, non_blocking=True)
        return Mixture(operations, edges, self.active, constants)


Shape = tuple[int, ...]
Entry = tuple[str, str, Shape, tuple[int | slice, ...], Shape]
"""A tensor in the naming of the public code: its public name, the name of the supernet's own tensor that holds it, the
full shape of that tensor, the index of the part in it, and the shape of the public tensor."""


def layer_key(layer: int) -> str:
    """The name under which a forward pass looks for the mixture of one layer, before that of its cell type.

    Args:
        layer: Index into ``Supernet.cells``.
    """
    return f"cells.{layer}"


class Supernet(nn.Module, ABC):
    """A network that holds every architecture of a differentiable space, with shared weights.

    Attributes:
        cells: The layers of the network in order: cells, and possibly modules between them.
        checkpoint_cells: Whether training keeps only the inputs of a cell and computes it again in the backward pass.
        adds_constants: Whether the supernet follows ``Mixture.constants``.
    """

    adds_constants: bool = False

    cells: nn.ModuleList
    checkpoint_cells: bool = False

    def run(self, cell: nn.Module, *inputs: Any) -> Any:
        """Call a cell, with checkpointing if ``checkpoint_cells`` is set.

        Args:
            cell: One of ``cells``.
            *inputs: What the cell is called with.
        """
        if not (self.checkpoint_cells and self.training and torch.is_grad_enabled()):
            return cell(*inputs)
        contexts = partial(_checkpoint_contexts, cell)
        return checkpoint(cell, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)

    def set_skip_dropout(self, rate: float) -> None:
        """Set the share of values passed by skip connections that training sets to zero, as P-DARTS does.

        The other values are scaled up. Strided skip connections, which have weights, are left alone.

        Args:
            rate: The share, from 0 to 1.

        Raises:
            ConfigError: This supernet has no such dropout.
        """
        found = [module for module in self.modules() if hasattr(module, "skip_dropout")]
        if not found:
            raise ConfigError(f"{type(self).__name__} has no dropout of skip connections. Use DARTSSpace.")
        for module in found:
            module.skip_dropout = rate  # type: ignore[assignment]  # a float wherever it is declared

    @abstractmethod
    def forward(self, x: Tensor, mixtures: Mapping[str, Mixture]) -> Tensor:
        """Map images ``(batch, channels, height, width)`` to logits ``(batch, classes)``.

        Args:
            x: Normalized images.
            mixtures: The mixture of each cell type. A key ``layer_key(i)`` gives the i-th layer a mixture of its own.
        """

    def layer_types(self) -> list[str | None]:
        """Return the cell type of every layer of ``cells``; None, the default, for a module that is not a cell."""
        return [None] * len(self.cells)

    @abstractmethod
    def per_edge(self) -> Iterator[Entry]:
        """Yield all tensors in the naming of the public code, except those of attention, which it does not have."""

    @abstractmethod
    def owner(self, public: str) -> tuple[str, int, int] | None:
        """Return the operation that a tensor belongs to.

        Args:
            public: One of the public names of ``per_edge``.

        Returns:
            Cell type, edge and operation, the latter two as indices into the alphas. None for a tensor that belongs to
            no operation, such as one of the stem.
        """


def _checkpoint_contexts(cell: nn.Module) -> tuple[Any, Any]:
    """Contexts of the two forward passes of a checkpoint: the second must not update the batch-norm statistics."""
    return nullcontext(), _unchanged_buffers(cell)


@contextmanager
def _unchanged_buffers(cell: nn.Module) -> Iterator[None]:
    before = [b.clone() for b in cell.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(cell.buffers(), before, strict=True):
            # through .data, because autograd would take it for a change of a tensor that it saved
            buffer.data.copy_(value)
