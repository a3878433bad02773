"""Normalizations: make the factors of different edges comparable."""

from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax

__all__ = [
    "EdgeSoftmax",
    "JointSoftmax",
    "Normalization",
]
