"""Relaxations: turn the alphas of an edge into factors."""

from lightning_nas.differentiable.relaxation.auxiliary_skip import AuxiliarySkip
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.dirichlet import Dirichlet
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax, HardGumbelSoftmax
from lightning_nas.differentiable.relaxation.reinmax import ReinMax
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.differentiable.relaxation.softmax import Softmax

__all__ = [
    "AuxiliarySkip",
    "Dirichlet",
    "GumbelSoftmax",
    "HardGumbelSoftmax",
    "ReinMax",
    "Relaxation",
    "Sigmoid",
    "Softmax",
]
