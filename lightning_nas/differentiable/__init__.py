"""Differentiable search: the components of a bi-level search, each in a package of its own."""

from lightning_nas.differentiable.alpha_mask import AlphaMask
from lightning_nas.differentiable.attention.channel import ChannelAttention
from lightning_nas.differentiable.discretization.base import Discretizer
from lightning_nas.differentiable.discretization.joint_score import JointScore
from lightning_nas.differentiable.discretization.product_score import ProductScore
from lightning_nas.differentiable.discretization.sigmoid_score import SigmoidScore
from lightning_nas.differentiable.discretization.skip_cap import SkipCap
from lightning_nas.differentiable.discretization.softmax_score import SoftmaxScore
from lightning_nas.differentiable.discretization.within_constraints import WithinConstraints
from lightning_nas.differentiable.hypergradient.base import Hypergradient
from lightning_nas.differentiable.hypergradient.exact_second_order import ExactSecondOrder
from lightning_nas.differentiable.hypergradient.first_order import FirstOrder
from lightning_nas.differentiable.hypergradient.one_level import OneLevel
from lightning_nas.differentiable.hypergradient.second_order import SecondOrder
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.differentiable.normalization.base import Normalization
from lightning_nas.differentiable.normalization.edge_softmax import EdgeSoftmax
from lightning_nas.differentiable.normalization.joint_softmax import JointSoftmax
from lightning_nas.differentiable.perturbation.adversarial import AdversarialPerturbation
from lightning_nas.differentiable.perturbation.base import Perturbation
from lightning_nas.differentiable.perturbation.random_smoothing import RandomSmoothing
from lightning_nas.differentiable.regularization.base import Regularizer
from lightning_nas.differentiable.regularization.beta_decay import BetaDecay
from lightning_nas.differentiable.regularization.dirichlet_anchor import DirichletAnchor
from lightning_nas.differentiable.regularization.edge_variance import EdgeVariance
from lightning_nas.differentiable.regularization.expected_cost import ExpectedCost
from lightning_nas.differentiable.regularization.layer_alignment import LayerAlignment
from lightning_nas.differentiable.regularization.self_distillation import SelfDistillation
from lightning_nas.differentiable.regularization.zero_one import ZeroOne
from lightning_nas.differentiable.relaxation.auxiliary_skip import AuxiliarySkip
from lightning_nas.differentiable.relaxation.base import Relaxation
from lightning_nas.differentiable.relaxation.dirichlet import Dirichlet
from lightning_nas.differentiable.relaxation.gumbel_softmax import GumbelSoftmax, HardGumbelSoftmax
from lightning_nas.differentiable.relaxation.reinmax import ReinMax
from lightning_nas.differentiable.relaxation.sigmoid import Sigmoid
from lightning_nas.differentiable.relaxation.softmax import Softmax
from lightning_nas.differentiable.runner import SupernetRunner
from lightning_nas.spaces.attention import Attention

__all__ = [
    "AdversarialPerturbation",
    "AlphaMask",
    "Attention",
    "AuxiliarySkip",
    "BetaDecay",
    "ChannelAttention",
    "Dirichlet",
    "DirichletAnchor",
    "Discretizer",
    "EdgeSoftmax",
    "EdgeVariance",
    "ExactSecondOrder",
    "ExpectedCost",
    "FirstOrder",
    "GumbelSoftmax",
    "HardGumbelSoftmax",
    "Hypergradient",
    "JointScore",
    "JointSoftmax",
    "LayerAlignment",
    "Normalization",
    "OneLevel",
    "Perturbation",
    "ProductScore",
    "RandomSmoothing",
    "Regularizer",
    "ReinMax",
    "Relaxation",
    "SearchModel",
    "SecondOrder",
    "SelfDistillation",
    "Sigmoid",
    "SigmoidScore",
    "SkipCap",
    "Softmax",
    "SoftmaxScore",
    "SupernetRunner",
    "WithinConstraints",
    "ZeroOne",
]
