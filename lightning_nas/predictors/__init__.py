"""Predictors of performance: an auto-encoder with a swarm in its code space, regressors, and rank losses."""

from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.predictors.rank_losses import PairwiseHinge, PairwiseLogistic, RankLoss, RankRegression
from lightning_nas.predictors.regressors import MLP, GradientBoosting, Predictor, RandomForest
from lightning_nas.predictors.swarm import CompetitiveSwarm, DistancePenalty, Reencoding, Remapping

__all__ = [
    "ArchitectureAutoEncoder",
    "CompetitiveSwarm",
    "DistancePenalty",
    "GradientBoosting",
    "MLP",
    "PairwiseHinge",
    "PairwiseLogistic",
    "Predictor",
    "RandomForest",
    "RankLoss",
    "RankRegression",
    "Reencoding",
    "Remapping",
]
