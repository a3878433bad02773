"""Trajectory matching."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Batch, Matcher, Synthetic
from lightning_nas.distill.experts import Experts, named_weights
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError


class TrajectoryMatching(Matcher):
    """``|| student - expert(t + M) ||^2 / || expert(t) - expert(t + M) ||^2`` with a student N steps from expert(t).

    ``expert(t)`` are the weights of a network after t epochs of training on the real images; every step draws an expert
    and t. The student takes plain SGD steps on synthetic images, each on a fresh draw of the scheme, and the gradient
    goes back through all of them; memory grows with N. Experts come from ``ExpertsTask``, trained on the same images
    with the same normalisation.

    The real batch is not looked at: the smallest is enough, and several processes would all compute the same. Autocast
    is not used, since weights move too little in an epoch for half precision.

    References:
        1. Cazenavette, Wang, Torralba, Efros, Zhu: Dataset Distillation by Matching Training Trajectories, CVPR 2022,
           https://arxiv.org/abs/2203.11932

    Args:
        experts: Path of an ``experts.safetensors``; read when a training starts.
        student_steps: N, at least 1.
        expert_epochs: M, at least 1.
        max_start_epoch: Largest t, at least 0; with M at most the experts' epochs.
        batch_size: Synthetic images a student's step, at least 1, in passes over all that is drawn; all of it if null.
        student_lr: Learning rate of the student at the start, above 0.
        learn_lr: Whether it is trained with the proxy.
        lr_lr: Learning rate of its logarithm, above 0. A step of the paper's rate r for the learning rate itself is one
            of ``r / student_lr^2`` here.
        augmentation: Of every student's step, all its images alike; none if null.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        experts: str = "experts.safetensors",
        student_steps: int = 30,
        expert_epochs: int = 2,
        max_start_epoch: int = 8,
        batch_size: int | None = None,
        student_lr: float = 0.01,
        learn_lr: bool = True,
        lr_lr: float = 0.01,
        augmentation: SiameseAugmentation | None = None,
    ) -> None:
        super().__init__()
        least = {"student_steps": student_steps, "expert_epochs": expert_epochs, "batch_size": batch_size}
        for name, value in least.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        if max_start_epoch < 0:
            raise ConfigError(f"max_start_epoch is {max_start_epoch}; it must be at least 0.")
        for name, rate in {"student_lr": student_lr, "lr_lr": lr_lr}.items():
            if not 0 < rate < math.inf:
                raise ConfigError(f"{name} is {rate}; it must be above 0, and finite.")
        self.path = experts
        self.inputs = {"experts": [Path(experts), Path(experts).with_suffix(".json")]}
        self.student_steps = student_steps
        self.expert_epochs = expert_epochs
        self.max_start_epoch = max_start_epoch
        self.batch_size = batch_size
        self.lr_lr = lr_lr
        self.augmentation = augmentation
        # a logarithm, so that no step of the optimizer makes the rate negative
        self.log_student_lr = nn.Parameter(torch.tensor(math.log(student_lr)), requires_grad=learn_lr)
        # no buffer: hundreds of trajectories stay in the main memory, and processes don't send them to each other
        self.experts: Experts | None = None

    @property
    def student_lr(self) -> Tensor:
        """The student's learning rate as it is now, a scalar."""
        return self.log_student_lr.exp()

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:
        """Read the experts; see ``Matcher.start``.

        Raises:
            ArtifactError: Their file is missing or damaged.
            ConfigError: They are of other images or classes, too short, or at rest.
        """
        experts = Experts.load(self.path)
        if (experts.image_shape, experts.num_classes) != (tuple(image_shape), num_classes):
            raise ConfigError(
                f"{self.path} has experts for images of shape {experts.image_shape} and {experts.num_classes} classes; "
                f"the data have {tuple(image_shape)} and {num_classes}. Train experts on the same data."
            )
        if self.max_start_epoch + self.expert_epochs > experts.epochs:
            raise ConfigError(
                f"max_start_epoch {self.max_start_epoch} and expert_epochs {self.expert_epochs} need experts of "
                f"{self.max_start_epoch + self.expert_epochs} epochs; those in {self.path} have {experts.epochs}. "
                "Lower one of the two, or train experts with a larger epochs_per_expert."
            )
        for index, weights in enumerate(experts.weights):
            pairs = zip(weights[: self.max_start_epoch + 1], weights[self.expert_epochs :], strict=False)
            at_rest = [t for t, (before, after) in enumerate(pairs) if torch.equal(before, after)]
            if at_rest:
                raise ConfigError(
                    f"Expert {index} in {self.path} does not move in the {self.expert_epochs} epochs after epoch "
                    f"{at_rest[0]}, so that there is nothing to match. Train experts with another learning rate."
                )
        self.experts = experts

    def check_source(self, source: Mapping[str, Any]) -> None:
        """Refuse experts of other images, which would let these into the proxy; see ``Matcher.check_source``.

        Raises:
            ConfigError: Mean, deviation or split are not those that the experts were trained with.
        """
        assert self.experts is not None
        made = {key: self.experts.info.get(key, value) for key, value in source.items()}
        if made != source:
            raise ConfigError(
                f"The experts in {self.path} were trained on images with {made}, these have {dict(source)}. Train "
                "experts on the same data, with the same train_limit, validation_fraction and split_seed."
            )

    def info(self) -> dict[str, Any]:
        """The student's learning rate: the one to train on the proxy with; see ``Matcher.info``."""
        return {"student_lr": float(self.student_lr.detach())}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The student's learning rate, if it is trained; see ``Matcher.parameter_groups``."""
        if not self.log_student_lr.requires_grad:
            return []
        # a decay meant for images would draw the rate towards 1
        return [{"params": [self.log_student_lr], "lr": self.lr_lr, "weight_decay": 0.0}]

    def loss(self, real: Batch, draw: Callable[[int], Synthetic], seed: int) -> Tensor:
        """The distance from the expert, relative to its own way; see ``Matcher.loss``."""
        assert self.experts is not None
        generator = torch.Generator().manual_seed(derived_seed(seed, "expert"))
        counts = (len(self.experts.weights), self.max_start_epoch + 1)
        expert, t = (int(torch.randint(count, (1,), generator=generator)) for count in counts)
        trajectory = self.experts.weights[expert]
        before, after = (trajectory[epoch].to(self.log_student_lr) for epoch in (t, t + self.expert_epochs))
        with torch.autocast(before.device.type, enabled=False):
            student = self._trained(self.experts.network(), before, draw, seed)
        return (student - after).square().sum() / (before - after).square().sum()

    def _trained(self, network: nn.Module, start: Tensor, draw: Callable[[int], Synthetic], seed: int) -> Tensor:
        """The student's weights after all steps, ``(parameters,)``."""
        weights, rate = start.detach().requires_grad_(), self.student_lr
        for step in range(self.student_steps):
            own = derived_seed(seed, "student", step)
            synthetic = draw(own)
            images, answers = synthetic.images, synthetic.answers
            if self.batch_size is not None:
                chosen = _chosen(len(images), self.batch_size, step, seed).to(images.device)
                images, answers = images[chosen], answers[chosen]
            if self.augmentation is not None:
                images = self.augmentation(images, own)
            logits = functional_call(network, named_weights(network, weights), (images,))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, answers), weights, create_graph=True)
            weights = weights - rate * gradient
        return weights


def _chosen(count: int, size: int, step: int, seed: int) -> Tensor:
    """Indices of a step's images: a part of the random order of its pass over all of them."""
    steps = math.ceil(count / size)
    generator = torch.Generator().manual_seed(derived_seed(seed, "pass", step // steps))
    return torch.randperm(count, generator=generator)[step % steps * size :][:size]
