"""Supernets: their artifact, the paths that train them, and the scores of their paths."""

from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.supernets.sampling import CostWindow, FairPaths, PathSampler, SandwichPaths, UniformPaths
from lightning_nas.supernets.scoring import fixed_images, score_paths
from lightning_nas.supernets.unused_weights import UnusedWeightGuard

__all__ = [
    "CostWindow",
    "FairPaths",
    "PathSampler",
    "SandwichPaths",
    "TrainedSupernet",
    "UniformPaths",
    "UnusedWeightGuard",
    "fixed_images",
    "score_paths",
]
