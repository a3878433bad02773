"""Zero-cost scores: evaluators that look at untrained networks."""

from lightning_nas.evaluation.zero_cost.az_nas import Expressivity, Progressivity, Trainability
from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore
from lightning_nas.evaluation.zero_cost.evaluator import ZeroCost
from lightning_nas.evaluation.zero_cost.gradients import SNIP, Fisher, GradientNorm, GraSP, ZiCo
from lightning_nas.evaluation.zero_cost.jacobian import EPENAS, JacobianCovariance
from lightning_nas.evaluation.zero_cost.meco import MeCo
from lightning_nas.evaluation.zero_cost.naswot import NASWOT, SWAP
from lightning_nas.evaluation.zero_cost.paths import LongestPath, ShortestPath
from lightning_nas.evaluation.zero_cost.size import MultiplyAccumulates, Parameters
from lightning_nas.evaluation.zero_cost.synflow import SynFlow
from lightning_nas.evaluation.zero_cost.zen import Zen

__all__ = [
    "EPENAS",
    "NASWOT",
    "SNIP",
    "SWAP",
    "Expressivity",
    "Fisher",
    "GraSP",
    "GradientNorm",
    "JacobianCovariance",
    "LongestPath",
    "MeCo",
    "MultiplyAccumulates",
    "Parameters",
    "Probe",
    "Progressivity",
    "ShortestPath",
    "SynFlow",
    "Trainability",
    "Zen",
    "ZeroCost",
    "ZeroCostScore",
    "ZiCo",
]
