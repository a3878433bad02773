"""NAS-Bench-101: cells of up to seven vertices."""

from lightning_nas.spaces.nasbench101.network import NASBench101Network
from lightning_nas.spaces.nasbench101.space import NASBench101Space

__all__ = [
    "NASBench101Network",
    "NASBench101Space",
]
