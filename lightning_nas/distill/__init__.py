"""Dataset distillation: schemes, matchers, and the data modules of a finished proxy."""

from lightning_nas.distill.base import Matcher, ProxyRegularizer, Scheme, Selection, Synthetic
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.contrast import AdversarialContrast
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.coresets import Herding, KCenter
from lightning_nas.distill.data_module import DistilledDataModule, ProxyDataModule
from lightning_nas.distill.difficulty import (
    EL2N,
    AreaUnderMargin,
    Difficulty,
    DifficultySelection,
    ForgettingEvents,
    LossDifficulty,
)
from lightning_nas.distill.distribution import DistributionMatching
from lightning_nas.distill.experts import Experts
from lightning_nas.distill.gradient import GradientMatching
from lightning_nas.distill.images import Noise, PlainImages, RandomSubset
from lightning_nas.distill.proxy import Proxy
from lightning_nas.distill.relation_matching import RelationMatching
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.distill.trajectory import TrajectoryMatching

__all__ = [
    "EL2N",
    "AdversarialContrast",
    "AreaUnderMargin",
    "ConvNet",
    "Difficulty",
    "DifficultySelection",
    "DistilledDataModule",
    "DistributionMatching",
    "Experts",
    "ForgettingEvents",
    "GradientMatching",
    "HallucinatedBases",
    "Herding",
    "KCenter",
    "LossDifficulty",
    "Matcher",
    "Noise",
    "PlainImages",
    "Proxy",
    "ProxyDataModule",
    "ProxyRegularizer",
    "RandomSubset",
    "RelationMappings",
    "RelationMatching",
    "Scheme",
    "Selection",
    "SiameseAugmentation",
    "Synthetic",
    "TrajectoryMatching",
]
