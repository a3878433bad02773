"""How NAS-Bench-201 cells are stacked to a network."""

from torch import nn

from lightning_nas.spaces.cells import CellGraph, Layers, Place, Stack
from lightning_nas.spaces.nasbench201.network import STAGES, ResidualBlock


class NASBench201Stack(Stack):
    """Three stages of cells; between two stages, a residual block doubles the channels and halves height and width.

    The number of cells that ``layers`` takes is that of one stage.
    """

    def layers(
        self, graph: CellGraph, *, channels_in: int, num_classes: int, channels: int, cells: int, affine: bool
    ) -> Layers:
        """See ``Stack.layers``."""
        stem = nn.Sequential(nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
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
