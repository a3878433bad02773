"""Discretizers: read an architecture from alphas."""

from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.discretization.joint_score import JointScore
from lightning_nas.differentiable.discretization.product_score import ProductScore
from lightning_nas.differentiable.discretization.sigmoid_score import SigmoidScore
from lightning_nas.differentiable.discretization.skip_cap import SkipCap
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.discretization.within_constraints import WithinConstraints

__all__ = [
    "Discretizer",
    "JointScore",
    "ProductScore",
    "SigmoidScore",
    "SkipCap",
    "SoftmaxScore",
    "WithinConstraints",
]
