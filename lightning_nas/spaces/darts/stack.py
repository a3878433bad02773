"""How DARTS cells are stacked to a network."""

from torch import nn

from lightning_nas.spaces.cells import CellGraph, Layers, Place, Stack
from lightning_nas.spaces.operation_modules import FactorizedReduce, ReLUConvBN
from lightning_nas.spaces.stems import full_size_stem, quarter_stem


class DARTSStack(Stack):
    """Normal cells with reduction cells at one and two thirds of the depth, which double the channels.

    Every cell reads the outputs of the two cells before it, each through a 1x1 convolution; the older output through a
    factorized reduction where it is larger.

    Args:
        stem: ``cifar`` or ``imagenet``; see ``DARTSSpace``.
    """

    def __init__(self, stem: str = "cifar") -> None:
        self.stem = stem

    def layers(
        self, graph: CellGraph, *, channels_in: int, num_classes: int, channels: int, cells: int, affine: bool
    ) -> Layers:
        """See ``Stack.layers``."""
        large = self.stem == "imagenet"
        stem = quarter_stem(channels_in, channels) if large else full_size_stem(channels_in, 3 * channels)
        stem_2 = ReLUConvBN(channels, channels, 3, 2, 1) if large else None
        before, reduction_before = ((channels, channels), True) if large else ((3 * channels, 3 * channels), False)
        body: list[Place | nn.Module] = []
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduction else 1
            older: nn.Module = (
                FactorizedReduce(before[0], channels, affine)
                if reduction_before
                else ReLUConvBN(before[0], channels, 1, 1, 0, affine)
            )
            inputs = [older, ReLUConvBN(before[1], channels, 1, 1, 0, affine)]
            body.append(Place("reduce" if reduction else "normal", channels, 2 if reduction else 1, inputs))
            before, reduction_before = (before[1], graph.channels_out(channels)), reduction
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before[1], num_classes))
        return Layers(stem, body, head, stem_2)
