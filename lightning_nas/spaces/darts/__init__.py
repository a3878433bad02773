"""The DARTS space: cells of edges that each take one operation."""

from lightning_nas.spaces.darts.network import DARTSNetwork
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.darts.supernet import DARTSSupernet

__all__ = [
    "DARTSNetwork",
    "DARTSSpace",
    "DARTSSupernet",
]
