"""Perturbations: move the factors of the weights' steps, so that the weights fit a neighbourhood of the alphas."""

from lightning_nas.differentiable.perturbation.adversarial import AdversarialPerturbation
from lightning_nas.differentiable.perturbation.base import Perturbation
from lightning_nas.differentiable.perturbation.random_smoothing import RandomSmoothing

__all__ = [
    "AdversarialPerturbation",
    "Perturbation",
    "RandomSmoothing",
]
