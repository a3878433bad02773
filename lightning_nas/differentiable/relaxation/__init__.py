"""Relaxations: turn the alphas of an edge into factors."""

from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax, HardGumbelSoftmax
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.differentiable.relaxation.softmax import Softmax

__all__ = [
    "GumbelSoftmax",
    "HardGumbelSoftmax",
    "Relaxation",
    "Sigmoid",
    "Softmax",
]
