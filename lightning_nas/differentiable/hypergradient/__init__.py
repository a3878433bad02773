"""Hypergradients: the gradients that alphas follow."""

from lightning_nas.differentiable.hypergradient.base import BilevelProblem, Hypergradient, VirtualStep
from lightning_nas.differentiable.hypergradient.exact_second_order import ExactSecondOrder
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.one_level import OneLevel
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder

__all__ = [
    "BilevelProblem",
    "ExactSecondOrder",
    "FirstOrder",
    "Hypergradient",
    "OneLevel",
    "SecondOrder",
    "VirtualStep",
]
