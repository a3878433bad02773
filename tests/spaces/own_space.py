"""A cell space as a user writes it: a graph, operations, one of them new, and a stack of cells."""

from torch import nn

from lightning_nas.spaces.cell_space import CellSpace
from lightning_nas.spaces.cells import CellGraph, Layers, Place, Stack
from lightning_nas.spaces.operations import Operation
from tests.spaces.own_operation import SqueezeExcite


class Pyramid(Stack):
    """Two-input cells; every second cell halves the images and doubles the channels."""

    def layers(
        self, graph: CellGraph, *, channels_in: int, num_classes: int, channels: int, cells: int, affine: bool
    ) -> Layers:
        stem = nn.Sequential(nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        widths, strides, body = [channels, channels], [1, 1], []
        for i in range(cells):
            stride = 1 + i % 2
            channels *= stride
            # the older input may be twice as large as the newer one
            inputs = [nn.Conv2d(widths[-2], channels, 1, strides[-1]), nn.Conv2d(widths[-1], channels, 1)]
            body.append(Place("deep" if stride == 2 else "flat", channels, stride, inputs))
            widths.append(graph.channels_out(channels))
            strides.append(stride)
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
        return Layers(stem, body, head)


class PyramidSpace(CellSpace):
    """Cells of three nodes, each of which keeps two inputs.

    Args:
        operations: Operations of the edges.
        channels: Channels of the supernet's first cell.
        cells: Number of cells of the supernet.
        partial_channels: Part of the channels that enters the operations.
        allowed: Operations that each edge may take.
    """

    cell_types = ("flat", "deep")

    def __init__(
        self,
        operations: tuple[str | Operation, ...] = ("none", "skip_connect", "sep_conv_3x3", SqueezeExcite(2)),
        channels: int = 4,
        cells: int = 3,
        partial_channels: int = 1,
        allowed: dict[str, list[list[str]]] | None = None,
    ) -> None:
        super().__init__(
            CellGraph(inputs=2, sources=((0, 1), (0, 1, 2), (1, 3))),
            Pyramid(),
            operations,
            inputs_kept=2,
            channels=channels,
            cells=cells,
            partial_channels=partial_channels,
            allowed=allowed,
        )
