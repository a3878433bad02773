"""The supernet of the DARTS space."""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.spaces.attention import Attention
from lightning_nas.spaces.darts.mixed_cell import MixedCell
from lightning_nas.spaces.darts.public_names import per_edge_entries
from lightning_nas.spaces.operation_modules import ReLUConvBN
from lightning_nas.spaces.operations import Operation
from lightning_nas.spaces.stems import full_size_stem, quarter_stem
from lightning_nas.spaces.supernet import Entry, Mixture, Supernet, layer_key


class DARTSSupernet(Supernet):
    """Stem, mixed cells, classifier; see ``DARTSSpace``.

    Args:
        operations: Names of the operations.
        allowed: Operations that every edge may take, bool ``(edges, operations)``, by cell type.
        nodes: Inner nodes of a cell.
        num_classes: Width of the classifier.
        channels_in: Channels of an image.
        channels: Channels of the first cell's operations.
        cells: Number of cells; those at a third and two thirds are reduction cells.
        partial_channels: K of partial connections.
        attention: What weights channels.
        imagenet_stem: Whether the stem divides height and width by 8.
    """

    adds_constants = True

    def __init__(
        self,
        operations: Sequence[Operation],
        allowed: Mapping[str, Tensor],
        nodes: int,
        num_classes: int,
        channels_in: int,
        channels: int,
        cells: int,
        partial_channels: int = 1,
        attention: Attention | None = None,
        imagenet_stem: bool = False,
    ) -> None:
        super().__init__()
        self.stem_2: nn.Module | None = None
        if imagenet_stem:
            self.stem = quarter_stem(channels_in, channels)
            self.stem_2 = ReLUConvBN(channels, channels, 3, 2, 1)
            before, reduction_before = (channels, channels), True
        else:
            self.stem = full_size_stem(channels_in, 3 * channels)
            before, reduction_before = (3 * channels, 3 * channels), False
        self.cells = nn.ModuleList()
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduction else 1
            self.cells.append(
                MixedCell(
                    operations,
                    allowed["reduce" if reduction else "normal"],
                    nodes,
                    before,
                    channels,
                    reduction=reduction,
                    reduction_before=reduction_before,
                    partial_channels=partial_channels,
                    attention=attention,
                )
            )
            before, reduction_before = (before[1], nodes * channels), reduction
        self.classifier = nn.Linear(before[1], num_classes)

    def forward(self, x: Tensor, mixtures: Mapping[str, Mixture]) -> Tensor:
        """Map images to logits; see ``Supernet.forward``."""
        placed = {name: mixture.to(x.device) for name, mixture in mixtures.items()}
        s0 = s1 = self.stem(x)
        if self.stem_2 is not None:
            s1 = self.stem_2(s0)
        for i, cell in enumerate(self.cells):
            mixture = placed.get(layer_key(i)) or placed["reduce" if cell.reduction else "normal"]
            s0, s1 = s1, self.run(cell, s0, s1, mixture)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(s1, 1).flatten(1))
        return logits

    def layer_types(self) -> list[str | None]:
        """See ``Supernet.layer_types``."""
        return ["reduce" if cell.reduction else "normal" for cell in self.cells]

    def per_edge(self) -> Iterator[Entry]:
        """The tensors in the naming of the public DARTS and PC-DARTS code."""
        return per_edge_entries(self)

    def owner(self, public: str) -> tuple[str, int, int] | None:
        """See ``Supernet.owner``."""
        found = re.match(r"cells\.(\d+)\._ops\.(\d+)\._ops\.(\d+)\.", public)
        if found is None:
            return None
        cell, edge, operation = map(int, found.groups())
        return "reduce" if self.cells[cell].reduction else "normal", edge, operation
