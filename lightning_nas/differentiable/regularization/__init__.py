"""Regularizers: add terms to the loss of the alphas, or to that of the weights."""

from lightning_nas.differentiable.regularization.base import Regularizer, WeightStep
from lightning_nas.differentiable.regularization.beta_decay import BetaDecay
from lightning_nas.differentiable.regularization.dirichlet_anchor import DirichletAnchor
from lightning_nas.differentiable.regularization.edge_variance import EdgeVariance
from lightning_nas.differentiable.regularization.expected_cost import ExpectedCost
from lightning_nas.differentiable.regularization.layer_alignment import LayerAlignment
from lightning_nas.differentiable.regularization.self_distillation import SelfDistillation
from lightning_nas.differentiable.regularization.zero_one import ZeroOne

__all__ = [
    "BetaDecay",
    "DirichletAnchor",
    "EdgeVariance",
    "ExpectedCost",
    "LayerAlignment",
    "Regularizer",
    "SelfDistillation",
    "WeightStep",
    "ZeroOne",
]
