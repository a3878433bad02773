"""A DARTS cell in which every edge mixes all operations."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.darts.fused_edges import FusedEdges
from lightning_nas.spaces.operation_modules import FactorizedReduce, ReLUConvBN
from lightning_nas.spaces.operations import Operation
from lightning_nas.spaces.supernet import Mixture


class MixedCell(nn.Module):
    """A cell of the fused DARTS supernet.

    It is computed by source state instead of by edge: the two inputs of the cell are known first and feed all nodes, so
    all their edges are computed together; then those that leave each node, as soon as it is known. See ``FusedEdges``.
    Outputs, parameters and batch-norm statistics equal those of one module per edge and operation.

    Args:
        operations: The operations, in the order of the mixture's columns.
        allowed: Operations that every edge has weights for, bool ``(edges, operations)``.
        nodes: Number of inner nodes; node i reads the two inputs and all nodes before it.
        channels_before: Channels of the outputs of the two cells before.
        channels: Channels of the cell's states.
        reduction: Whether edges from the two inputs halve height and width.
        reduction_before: Whether the cell before was a reduction cell.
        partial_channels: Only a ``partial_channels``-th of the channels enters the operations; the others pass by
            (PC-DARTS).
        attention: Attention over channels, or None.
    """

    rows: Tensor

    def __init__(
        self,
        operations: Sequence[Operation],
        allowed: Tensor,
        nodes: int,
        channels_before: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        reduction_before: bool,
        partial_channels: int = 1,
        attention: Attention | None = None,
    ) -> None:
        super().__init__()
        self.node_count = nodes
        self.reduction = reduction
        self.partial_channels = partial_channels
        self.preprocess0 = (
            FactorizedReduce(channels_before[0], channels, affine=False)
            if reduction_before
            else ReLUConvBN(channels_before[0], channels, 1, 1, 0, affine=False)
        )
        self.preprocess1 = ReLUConvBN(channels_before[1], channels, 1, 1, 0, affine=False)
        self.inner = channels // partial_channels
        self.sizes = [2 * nodes, *range(nodes - 1, 0, -1)]  # number of edges that each item of fused_edges computes
        self.order = fused_order(nodes)
        self.register_buffer("rows", torch.tensor(self.order), persistent=False)
        self.fused_edges = nn.ModuleList(
            FusedEdges(
                operations, of_edges.unflatten(0, (-1, 1 if i else 2)), self.inner, 2 if reduction and not i else 1
            )
            for i, of_edges in enumerate(allowed[self.order].split(self.sizes))
        )
        self.gates = nn.ModuleList()
        if attention is not None:
            self.gates.extend(attention.channel_gate(self.inner) for _ in range(1 + nodes))

    def forward(self, s0: Tensor, s1: Tensor, mixture: Mixture) -> Tensor:
        """Map the outputs of the two cells before to ``(batch, nodes * channels, height, width)``.

        Args:
            s0: Output of the cell before the last one.
            s1: Output of the last cell.
            mixture: Weights of the cell's type.
        """
        states = [self.preprocess0(s0), self.preprocess1(s1)]

        factors = mixture.operations.index_select(0, self.rows).split(self.sizes)
        active = None if mixture.active is None else mixture.active[self.order].split(self.sizes)
        constants = None
        if mixture.constants is not None:
            constants = mixture.constants.index_select(0, self.rows).split(self.sizes)
        of_edges = mixture.edges.index_select(0, self.rows).split(self.sizes) if self.partial_channels > 1 else None
        nodes: list[Tensor] = []
        waiting: Tensor | None = None  # sums of the nodes that are not complete yet
        passing: Tensor | None = None
        for i, edges in enumerate(self.fused_edges):
            sources = states if i == 0 else nodes[-1:]
            first = 0 if i == 0 else i + 1
            entering = [self._entering(first + j, state) for j, state in enumerate(sources)]
            shape = (self.sizes[i] // len(sources), len(sources))
            wanted = None if active is None else active[i].unflatten(0, shape)
            mixed = edges(entering, factors[i].unflatten(0, shape), wanted)
            if constants is not None:
                of_targets = constants[i].unflatten(0, shape).sum(1).to(mixed.dtype)
                mixed = mixed + of_targets.repeat_interleave(self.inner).view(1, -1, 1, 1)
            waiting = mixed if waiting is None else waiting + mixed
            if of_edges is not None:
                passed = self._passing(sources, of_edges[i].view(shape), self.reduction and i == 0)
                passing = passed if passing is None else passing + passed
            node = waiting
            # the gradient of an empty rest would spoil the memory format of the whole, so nothing is split off last
            if i < len(self.fused_edges) - 1:
                node, waiting = waiting.split([self.inner, waiting.shape[1] - self.inner], dim=1)
            if passing is not None:
                node, passing = self._shuffled(node, passing[0]), passing[1:]
            nodes.append(node)
        return torch.cat(nodes, dim=1)

    def _entering(self, source: int, state: Tensor) -> Tensor:
        """The channels of a state that enter operations, after its gate."""
        x = state[:, : self.inner]
        return x * self.gates[source](x) if len(self.gates) else x

    def _passing(self, sources: Sequence[Tensor], edges: Tensor, halve: bool) -> Tensor:
        """Weighted sums, by target, of the channels that pass by: ``(targets, batch, height, width, rest)``."""
        rest = [state[:, self.inner :] for state in sources]
        rest = [F.max_pool2d(x, 2, ceil_mode=True) for x in rest] if halve else rest
        planes = torch.stack([x.permute(0, 2, 3, 1) for x in rest])
        return (edges @ planes.flatten(1)).view(-1, *planes.shape[1:])

    def _shuffled(self, mixed: Tensor, passing: Tensor) -> Tensor:
        """Interleave mixed and passing channels, so that other channels enter the operations at the next node."""
        whole = torch.cat([mixed, passing.permute(0, 3, 1, 2)], dim=1)
        groups: Tensor = whole.unflatten(1, (self.partial_channels, -1))
        return groups.transpose(1, 2).flatten(1, 2)


def fused_order(nodes: int) -> list[int]:
    """Return the edges in the order in which a cell computes them (by target, then source), as rows of the mixture.

    Args:
        nodes: Number of inner nodes.
    """
    start = [sum(range(2, 2 + node)) for node in range(nodes)]
    rows = [start[node] + source for node in range(nodes) for source in (0, 1)]
    return rows + [start[node] + source for source in range(2, nodes + 1) for node in range(source - 1, nodes)]
