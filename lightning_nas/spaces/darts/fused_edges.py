"""All edges that leave one or two states of a DARTS cell, evaluated together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_nas.spaces.darts.edge_weights import EdgeSlice, EdgeWeights, blocks
from lightning_nas.spaces.darts.kernel_base import EdgeKernel, Scores
from lightning_nas.spaces.darts.kernel_dense import DenseKernel
from lightning_nas.spaces.darts.kernel_wide import WideKernel

DENSE_PIXELS = 64
"""Images of at most so many pixels are convolved as one matrix over all pixels: see ``FusedEdges``."""


class FusedEdges(nn.Module):
    """Every operation from some states to some nodes, and their weighted sum at each node.

    What the edges share is computed once a state: ReLU, pooling and its batch norm. The weights of one kind of
    operation are stored stacked over the edges, and every depthwise-pointwise pair is followed by a batch norm without
    parameters, which is folded into the pointwise map together with the mixture's factors; so a node's sum over
    sources and operations is one matrix product a kind of operation.

    Two ways of computing give equal results. Small images are *dense*: ``(channels, pixels, batch)`` tensors, all kinds
    of convolution in one batched matrix product, because the number of calls decides there. Others are *wide*:
    channels_last tensors with all edges side by side as groups of channels.

    Args:
        operations: Names of the operations, in the order of the mixture's columns.
        allowed: Operations that there are weights for, bool ``(targets, sources, operations)``; sources are the states
            read (2 for the inputs of the cell, else 1), targets the nodes that read them.
        channels: Channels of the operations.
        stride: 2 halves height and width.

    Attributes:
        skip_dropout: Share of what skips pass in training that is dropped, while the rest is scaled up; the same values
            for all nodes. Strided skips, which have weights, are left alone.
    """

    order: Tensor
    skip_dropout: float = 0.0

    def __init__(self, operations: Sequence[str], allowed: Tensor, channels: int, stride: int) -> None:
        super().__init__()
        self.operations = tuple(operations)
        self.targets, self.sources, _ = allowed.shape
        self.channels, self.stride, self.allowed = channels, stride, allowed
        used = [
            name for name, any_edge in zip(operations, allowed.flatten(0, 1).any(0).tolist(), strict=True) if any_edge
        ]
        # separable convolutions before dilated ones
        self.convolutions = sorted((name for name in used if "conv" in name), key=lambda name: name.startswith("dil"))
        self.pools = [name for name in used if "pool" in name]
        self.reduces = "skip_connect" in used and stride == 2
        skip = ["skip_connect"] * ("skip_connect" in used)
        # operations without weights
        self.free = self.pools + ["noise"] * ("noise" in used) + skip * (stride == 1)
        ordered = self.convolutions + self.free + skip * self.reduces
        self.columns = [self.operations.index(name) for name in ordered]
        self.register_buffer("order", torch.tensor(self.columns, dtype=torch.long), persistent=False)
        weighted = self.convolutions + ["skip_connect"] * self.reduces
        self.edges = nn.ModuleList(
            EdgeWeights(block, weighted, channels)
            for block in blocks(allowed[:, :, [self.operations.index(name) for name in weighted]])
        )
        if self.pools:
            self.register_buffer("mean_pool", torch.zeros(len(self.pools) * self.sources, channels))
            self.register_buffer("var_pool", torch.ones(len(self.pools) * self.sources, channels))
        if self.pools or weighted:
            self.register_buffer("batches", torch.tensor(0, dtype=torch.long))

    def forward(
        self, states: Sequence[Tensor], weights: Tensor, scores: Scores | None = None, active: Tensor | None = None
    ) -> Tensor:
        """Sum at every node.

        Args:
            states: What enters the operations, ``(batch, channels, height, width)`` each.
            weights: Factors of the operations, ``(targets, sources, operations)``; zero where one is not allowed.
            scores: Scores of operations, see ``Attention.operation_scores``.
            active: What to compute, bool on the CPU, of the shape of ``weights``; None for all.

        Returns:
            ``(batch, targets * channels, height, width)``.
        """
        if self.training and "batches" in self._buffers:
            self.get_buffer("batches").add_(1)
        height, width = states[0].shape[2:]
        dense = height * width <= DENSE_PIXELS
        path: EdgeKernel = DenseKernel(self, states) if dense else WideKernel(self, states)
        return path.mix(weights, scores, active)

    def chunks(self, single: bool, active: Tensor | None) -> list[tuple[int, int, list[EdgeSlice]]]:
        """The convolutions of targets that are computed together: first target, number of targets, and the parts.

        Args:
            single: One target at a time, or all together.
            active: What to compute, see ``forward``.
        """
        parts = [part for edges in self.edges for part in self._parts(edges, single, active)]
        if not single:
            return [(0, self.targets, parts)]
        return [(t, 1, [part for part in parts if part.targets == (t,)]) for t in range(self.targets)]

    def _parts(self, edges: nn.Module, single: bool, active: Tensor | None) -> list[EdgeSlice]:
        assert isinstance(edges, EdgeWeights)
        if active is None:
            return edges.split() if single else [edges.whole()]
        columns = [self.operations.index(name) for name in edges.operations]
        wanted = active[list(edges.targets)][:, list(edges.sources)][:, :, columns]
        if wanted.all():
            return edges.split() if single else [edges.whole()]
        rows = [wanted[t : t + 1] for t in range(len(wanted))] if single else [wanted]
        return [edges.part(block, t if single else 0) for t, row in enumerate(rows) for block in blocks(row)]

    def wanted_free(self, active: Tensor | None) -> list[str]:
        """The operations without weights that are to be computed."""
        if active is None:
            return self.free
        on = dict(zip(self.operations, active.flatten(0, 1).any(0).tolist(), strict=True))
        return [name for name in self.free if on[name]]

    def pool_statistics(self, pools: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Running mean and variance of neighbouring pools, ``(pools * sources, channels)`` each, as views."""
        first = self.pools.index(pools[0]) * self.sources
        rows = slice(first, first + len(pools) * self.sources)
        return self.get_buffer("mean_pool")[rows], self.get_buffer("var_pool")[rows]
