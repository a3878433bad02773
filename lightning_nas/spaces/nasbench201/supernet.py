"""The fused supernet of NAS-Bench-201: every edge mixes all operations, and edges are computed by source state."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.nasbench201.fused_edges import CONV_1X1, CONV_3X3, FusedEdges
from lightning_nas.spaces.nasbench201.network import NODES, STAGES, ResidualBlock
from lightning_nas.spaces.nasbench201.path_scoring import path_logits
from lightning_nas.spaces.operations import Operation
from lightning_nas.spaces.path_scoring import BatchedPathScoring, Logits
from lightning_nas.spaces.stems import eighth_stem, full_size_stem
from lightning_nas.spaces.supernet import Entry, Mixture, Supernet, layer_key


class NASBench201MixedCell(nn.Module):
    """A cell in which every edge mixes the operations that it may take.

    It is computed by source state, see ``FusedEdges``. Outputs, parameters and batch-norm statistics equal those of one
    module per edge and operation.

    Args:
        operations: The operations, in the order of the mixture's columns.
        allowed: Operations that each edge may take, bool ``(edges, operations)``.
        channels: Channels of a state.
        attention: Attention over channels, or None.
    """

    def __init__(
        self, operations: Sequence[Operation], allowed: Tensor, channels: int, attention: Attention | None = None
    ) -> None:
        super().__init__()
        self.channels = channels
        self.fused_edges = nn.ModuleList(FusedEdges(operations, allowed[rows], channels) for rows in source_rows())
        gates = [attention.channel_gate(channels) for _ in self.fused_edges] if attention is not None else []
        self.gates = nn.ModuleList(gates)

    def forward(
        self, x: Tensor, factors: Sequence[Mapping[str, Tensor]], active: Sequence[Any], constants: Sequence[Any]
    ) -> Tensor:
        """Map ``(batch, channels, height, width)`` to the same shape.

        Args:
            x: Input of the cell.
            factors: For every source, the factors of its edges by the name of the operation.
            active: For every source, flags ``(targets, operations)`` of the operations to compute, or None for all.
            constants: For every source, what is added to the values of each edge, ``(targets,)``, or None for nothing.
        """
        waiting: Tensor | None = None  # sums of the nodes that are not complete yet
        for i, edges in enumerate(self.fused_edges):
            x = x.contiguous(memory_format=torch.channels_last)
            entering = x * self.gates[i](x) if len(self.gates) else x
            mixed: Tensor = edges(entering, factors[i], active[i])
            if constants[i] is not None:
                mixed = mixed + constants[i].to(mixed.dtype).repeat_interleave(self.channels).view(1, -1, 1, 1)
            if waiting is not None:
                mixed.add_(waiting)
            if i == len(self.fused_edges) - 1:
                break
            # a split instead of two slices, because its gradient is a single concatenation
            x, waiting = mixed.split([self.channels, mixed.shape[1] - self.channels], dim=1)
        return mixed


def source_rows() -> list[list[int]]:
    """Return for every source the rows of its edges in the alphas, in the order of their targets."""
    return [[node * (node - 1) // 2 + source for node in range(source + 1, NODES)] for source in range(NODES - 1)]


class NASBench201Supernet(Supernet, BatchedPathScoring):
    """The fused supernet of ``NASBench201Space``: stem, three stages of mixed cells, classifier.

    A residual block stands between two stages.

    Args:
        operations: The operations, in the order of the mixture's columns; those of
            ``operations.NASBENCH201_OPERATIONS``.
        allowed: Operations that each edge may take, bool ``(edges, operations)``.
        num_classes: Number of classes.
        channels_in: Channels of an image.
        channels: Channels of the first stage.
        cells_per_stage: Number of cells of a stage.
        attention: Attention over channels, or None.
        imagenet_stem: Whether the stem divides height and width by 8.
    """

    adds_constants = True

    order: Tensor

    def __init__(
        self,
        operations: Sequence[Operation],
        allowed: Tensor,
        num_classes: int,
        channels_in: int,
        channels: int,
        cells_per_stage: int,
        attention: Attention | None = None,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        self.operations = tuple(operation.name for operation in operations)
        self.allowed = allowed
        self.has_attention = attention is not None
        self.stem = (eighth_stem if imagenet_stem else full_size_stem)(channels_in, channels)
        self.cells = nn.ModuleList()
        for stage in range(STAGES):
            if stage:
                self.cells.append(ResidualBlock(channels, 2 * channels))
                channels *= 2
            self.cells.extend(
                NASBench201MixedCell(operations, allowed, channels, attention) for _ in range(cells_per_stage)
            )
        self.lastact = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, num_classes)
        self.register_buffer("order", torch.tensor(sum(source_rows(), [])), persistent=False)

    def forward(self, x: Tensor, mixtures: Mapping[str, Mixture]) -> Tensor:
        """Map images to logits; see ``Supernet.forward``."""
        # split once for all cells
        split = {name: self._split(mixture.to(x.device)) for name, mixture in mixtures.items()}
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for i, cell in enumerate(self.cells):
            if isinstance(cell, ResidualBlock):
                x = cell(x)
            else:
                x = self.run(cell, x, *(split.get(layer_key(i)) or split["cell"]))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.lastact(x), 1).flatten(1))
        return logits

    def _split(self, mixture: Mixture) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """The arguments of a cell: for every source, factors, flags of computed operations, and constants."""
        rows = source_rows()
        counts = [len(each) for each in rows]
        parts = mixture.operations.index_select(0, self.order).split(counts)
        factors = [dict(zip(self.operations, part.unbind(1), strict=True)) for part in parts]
        flags = None if mixture.active is None else mixture.active.tolist()
        active = [None if flags is None else [flags[row] for row in each] for each in rows]
        constants: Sequence[Any] = [None] * len(rows)
        if mixture.constants is not None:
            constants = mixture.constants.index_select(0, self.order).split(counts)
        return factors, active, constants

    def layer_types(self) -> list[str | None]:
        """See ``Supernet.layer_types``."""
        return [None if isinstance(cell, ResidualBlock) else "cell" for cell in self.cells]

    def supports(self, path: Mapping[str, Mixture]) -> bool:
        """Return whether every edge takes a single allowed operation, and no attention changes its factor.

        Args:
            path: Second argument of the forward pass.
        """
        mixture = path["cell"]
        if mixture.active is None or not torch.equal(mixture.active.to(mixture.operations), mixture.operations):
            return False
        single = bool((mixture.active.sum(1) == 1).all())
        return single and not self.has_attention and not bool((mixture.active & ~self.allowed).any())

    def path_logits(
        self, paths: Sequence[Mapping[str, Mixture]], calibration: Tensor, batches: Sequence[Tensor]
    ) -> Logits:
        """See ``BatchedPathScoring.path_logits``."""
        columns = [path["cell"].operations.argmax(1).tolist() for path in paths]
        return path_logits(self, [[self.operations[c] for c in each] for each in columns], calibration, batches)

    def per_edge(self) -> Iterator[Entry]:
        """Yield the tensors in the naming of the public NAS-Bench-201 code; see ``Supernet.per_edge``."""
        return per_edge_entries(self)

    def owner(self, public: str) -> tuple[str, int, int] | None:
        """See ``Supernet.owner``."""
        found = re.match(r"cells\.\d+\.edges\.(\d+)<-(\d+)\.(\d+)\.", public)
        if found is None:
            return None
        node, source, operation = map(int, found.groups())
        return "cell", node * (node - 1) // 2 + source, operation


def per_edge_entries(supernet: nn.Module) -> Iterator[Entry]:
    """Yield the tensors of a supernet in the naming of the public code; see ``Supernet.per_edge``.

    Args:
        supernet: A ``NASBench201Supernet``, or a module that holds one.
    """
    own = (".fused_edges.", ".gates.")
    for name, value in supernet.state_dict().items():
        if not any(part in name for part in own):
            shape = tuple(value.shape)
            yield name, name, shape, (), shape
    for prefix, cell in supernet.named_modules():
        if isinstance(cell, NASBench201MixedCell):
            for source, edges in enumerate(cell.fused_edges.children()):
                assert isinstance(edges, FusedEdges)
                yield from _edges(edges, f"{prefix}.fused_edges.{source}.", f"{prefix}.edges.", source)


def _edges(edges: FusedEdges, own: str, public: str, source: int) -> Iterator[Entry]:
    """All tensors of the edges that leave one state."""
    c = edges.channels
    for name, size, targets in ((CONV_3X3, 3, edges.stored.conv_3x3), (CONV_1X1, 1, edges.stored.conv_1x1)):
        for i, target in enumerate(targets):
            count = len(targets)
            op = f"{public}{source + 1 + target}<-{source}.{edges.operations.index(name)}.op"
            kernel = (c, c, size, size)
            yield f"{op}.1.weight", f"{own}weight_{size}", (count, *kernel), (i,), kernel
            yield f"{op}.2.running_mean", f"{own}mean_{size}", (count, c), (i,), (c,)
            yield f"{op}.2.running_var", f"{own}var_{size}", (count, c), (i,), (c,)
            yield f"{op}.2.num_batches_tracked", f"{own}batches_{size}", (count,), (i,), ()
