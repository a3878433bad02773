"""A DARTS cell in which every edge mixes all operations."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.base import Mixture
from lightning_nas.spaces.darts.fused_edges import FusedEdges
from lightning_nas.spaces.operations import FactorizedReduce, ReLUConvBN


class MixedCell(nn.Module):
    """A cell of a DARTS supernet.

    It is evaluated by source state: the cell's inputs feed all nodes, so all their edges go together, then those of
    every node once it is known; see ``FusedEdges``. The mathematics, parameters and batch-norm statistics are those of
    one module per edge and operation (``lightning_nas.spaces.convert`` names them so).

    Args:
        operations: Names of the operations.
        allowed: Operations that every edge has weights for, bool ``(edges, operations)``.
        nodes: Inner nodes; node i reads the two inputs and all nodes before it.
        channels_before: Channels of the outputs of the two cells before.
        channels: Channels of the operations.
        reduction: Whether edges from the two inputs halve height and width.
        reduction_before: Whether the cell before was a reduction.
        partial_channels: K of partial connections: a K-th of the channels enters the operations, the others pass.
        attention: What weights channels or operations.
    """

    rows: Tensor

    def __init__(
        self,
        operations: Sequence[str],
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
        self.preprocess_0 = (
            FactorizedReduce(channels_before[0], channels, affine=False)
            if reduction_before
            else ReLUConvBN(channels_before[0], channels, 1, 1, 0, affine=False)
        )
        self.preprocess_1 = ReLUConvBN(channels_before[1], channels, 1, 1, 0, affine=False)
        self.inner = channels // partial_channels
        self.sizes = [2 * nodes, *range(nodes - 1, 0, -1)]  # edges of each wave
        self.order = list(wave_rows(nodes))
        self.register_buffer("rows", torch.tensor(self.order), persistent=False)
        self.waves = nn.ModuleList(
            FusedEdges(
                operations, of_wave.unflatten(0, (-1, 1 if i else 2)), self.inner, 2 if reduction and i == 0 else 1
            )
            for i, of_wave in enumerate(allowed[self.order].split(self.sizes))
        )
        self.gates = nn.ModuleList()
        self.scores: nn.Module | None = None
        if attention is not None:
            gates = [attention.channel_gate(self.inner) for _ in range(1 + nodes)]
            self.gates.extend(gate for gate in gates if gate is not None)
            self.scores = attention.operation_scores(self.inner, len(operations))

    def forward(self, s0: Tensor, s1: Tensor, mixture: Mixture) -> Tensor:
        """Map the outputs of the two cells before to ``(batch, nodes * channels, height, width)``."""
        states = [self.preprocess_0(s0), self.preprocess_1(s1)]

        weights = mixture.operations.index_select(0, self.rows).split(self.sizes)
        active = None if mixture.active is None else mixture.active[self.order].split(self.sizes)
        edges = mixture.edges.index_select(0, self.rows).split(self.sizes) if self.partial_channels > 1 else None
        nodes: list[Tensor] = []
        waiting: Tensor | None = None  # sums of the nodes that are not complete
        passing: Tensor | None = None
        for i, wave in enumerate(self.waves):
            sources = states if i == 0 else nodes[-1:]
            first = 0 if i == 0 else i + 1
            entering = [self._entering(first + j, state) for j, state in enumerate(sources)]
            shape = (wave.targets, wave.sources)
            wanted = None if active is None else active[i].unflatten(0, shape)
            mixed = wave(entering, weights[i].unflatten(0, shape), self.scores, wanted)
            waiting = mixed if waiting is None else waiting + mixed
            if edges is not None:
                passed = self._passing(sources, edges[i].view(shape), self.reduction and i == 0)
                passing = passed if passing is None else passing + passed
            node = waiting
            if i < len(self.waves) - 1:  # the gradient of an empty rest would spoil the memory format of the whole
                node, waiting = waiting.split([self.inner, waiting.shape[1] - self.inner], dim=1)
            if passing is not None:
                node, passing = self._shuffled(node, passing[0]), passing[1:]
            nodes.append(node)
        return torch.cat(nodes, dim=1)

    def _entering(self, source: int, state: Tensor) -> Tensor:
        """The channels of a state that enter operations, gated."""
        x = state[:, : self.inner]
        return x * self.gates[source](x) if len(self.gates) else x

    def _passing(self, sources: Sequence[Tensor], edges: Tensor, halve: bool) -> Tensor:
        """For every target, the sum of the channels that pass by: ``(targets, batch, height, width, rest)``."""
        rest = [state[:, self.inner :] for state in sources]
        rest = [F.max_pool2d(x, 2, ceil_mode=True) for x in rest] if halve else rest
        planes = torch.stack([x.permute(0, 2, 3, 1) for x in rest])
        return (edges @ planes.flatten(1)).view(-1, *planes.shape[1:])

    def _shuffled(self, mixed: Tensor, passing: Tensor) -> Tensor:
        """Mixed and passing channels in turn: the shuffle rotates the sampled channels from node to node."""
        whole = torch.cat([mixed, passing.permute(0, 3, 1, 2)], dim=1)
        groups: Tensor = whole.unflatten(1, (self.partial_channels, -1))
        return groups.transpose(1, 2).flatten(1, 2)


def wave_rows(nodes: int) -> list[int]:
    """The edges in the order of the waves (targets, then sources), as rows of the mixture."""
    start = [sum(range(2, 2 + node)) for node in range(nodes)]
    rows = [start[node] + source for node in range(nodes) for source in (0, 1)]
    return rows + [start[node] + source for source in range(2, nodes + 1) for node in range(source - 1, nodes)]
