"""NAS-Bench-201: cells of six edges."""

from lightning_nas.spaces.nasbench201.network import NASBench201Network
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.nasbench201.supernet import NASBench201Supernet

__all__ = [
    "NASBench201Network",
    "NASBench201Space",
    "NASBench201Supernet",
]
