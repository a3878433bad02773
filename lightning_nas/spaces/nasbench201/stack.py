"""How NAS-Bench-201 cells are stacked to a network."""

from torch import nn

from lightning_nas.spaces.cells import CellGraph, Layers, Place, Stack
from lightning_nas.spaces.nasbench201.network import STAGES, ResidualBlock
from lightning_nas.spaces.stems import eighth_stem, full_size_stem


class NASBench201Stack(Stack):
    """Three stages of cells; between two stages, a residual block doubles the channels and halves height and width.

    The number of cells that ``layers`` takes is that of one stage.

    Args:
        stem: ``cifar`` or ``imagenet``; see ``NASBench201Space``.
    """

    def __init__(self, stem: str = "cifar") -> None:
        self.stem = stem

    def layers(
        self, graph: CellGraph, *, channels_in: int, num_classes: int, channels: int, cells: int, affine: bool
    ) -> Layers:
        """See ``Stack.layers``."""
        stem = (eighth_stem if self.stem == "imagenet" else full_size_stem)(channels_in, channels)
        body: list[Place | nn.Module] = []
        for stage in range(STAGES):
            if stage:
                body.append(ResidualBlock(channels, 2 * channels))
                channels *= 2
            body += [Place("cell", channels, 1, [nn.Identity()]) for _ in range(cells)]
        head = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, num_classes),
        )
        return Layers(stem, body, head)
