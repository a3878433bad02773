"""Tasks: one LightningModule for each stage."""

from lightning_nas.tasks.autoencoder import AutoEncoderTask
from lightning_nas.tasks.bilevel import BilevelTask
from lightning_nas.tasks.distill import DistillTask
from lightning_nas.tasks.evolve import EvolveTask
from lightning_nas.tasks.experts import ExpertsTask
from lightning_nas.tasks.fidelity import FidelityTask
from lightning_nas.tasks.select import SelectTask
from lightning_nas.tasks.shapley import ShapleyTask
from lightning_nas.tasks.split import SplitTask
from lightning_nas.tasks.supernet import SupernetTask
from lightning_nas.tasks.train import TrainTask

__all__ = [
    "AutoEncoderTask",
    "BilevelTask",
    "DistillTask",
    "EvolveTask",
    "ExpertsTask",
    "FidelityTask",
    "SelectTask",
    "ShapleyTask",
    "SplitTask",
    "SupernetTask",
    "TrainTask",
]
