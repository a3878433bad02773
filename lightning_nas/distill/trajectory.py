"""Trajectory matching."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightning_nas.checks import at_least, within
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Matcher, Synthetic
from lightning_nas.distill.experts import Experts, named_weights
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError


class TrajectoryMatching(Matcher):
    """Makes a student that trains on the proxy reach the weights that an expert reached by training on real images.

    The distance is

        || student - expert(t + M) ||^2 / || expert(t) - expert(t + M) ||^2

    where ``expert(t)`` are the weights of a network after t epochs of training on the real images, and the student is
    what N steps on the proxy make of ``expert(t)``. Every step draws an expert and t. The student takes plain SGD steps
    on synthetic images, each on a fresh draw of the scheme, and the gradient goes back through all of them, so that
    memory grows with N. Experts come from ``ExpertsTask``, trained on the same images with the same normalization.

    The real batch is not used: the smallest one is enough, and several processes would all compute the same. Autocast
    is disabled, since the weights move too little per epoch for half precision.

    References:
        1. Cazenavette, Wang, Torralba, Efros, Zhu: Dataset Distillation by Matching Training Trajectories, CVPR 2022,
           https://arxiv.org/abs/2203.11932

    Args:
        experts_path: Path of ``experts.safetensors``, which is read when the training starts.
        student_steps: N, the number of the student's steps, at least 1 (the paper, 10 images per class of CIFAR-10:
            30).
        expert_epochs: M, the number of the expert's epochs, at least 1 (the paper: 2).
        max_start_epoch: Largest t, at least 0. The public code excludes its own number: 20 there is 19 here. Together
            with M it must not exceed the experts' epochs.
        batch_size: Synthetic images per step of the student, at least 1; the steps pass over everything that is drawn.
            All of it in every step if null.
        student_lr: Learning rate of the student at the start, above 0 (the paper: 0.01).
        learn_lr: Whether the student's learning rate is trained together with the proxy.
        lr_lr: Learning rate of the logarithm of the student's learning rate, above 0. The paper trains the learning
            rate itself: its rate r corresponds to ``r / student_lr^2`` here.
        augmentation: Change of every step of the student, the same for all its images, as in the other matchers; none
            if null. The public code draws it for each image of a batch.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        matcher:
          class_path: TrajectoryMatching
          init_args:
            experts_path: experts.safetensors
            student_steps: 20
        ```
    """

    def __init__(
        self,
        experts_path: str = "experts.safetensors",
        *,
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
        at_least(1, student_steps=student_steps, expert_epochs=expert_epochs, batch_size=batch_size)
        at_least(0, max_start_epoch=max_start_epoch)
        within("(0, inf)", student_lr=student_lr, lr_lr=lr_lr)
        self.experts_path = experts_path
        self.inputs = {"experts": [Path(experts_path), Path(experts_path).with_suffix(".json")]}
        self.student_steps = student_steps
        self.expert_epochs = expert_epochs
        self.max_start_epoch = max_start_epoch
        self.batch_size = batch_size
        self.lr_lr = lr_lr
        self.augmentation = augmentation
        # a logarithm, so that no step of the optimizer can make the rate negative
        self.log_student_lr = nn.Parameter(torch.tensor(math.log(student_lr)), requires_grad=learn_lr)
        # not a buffer: hundreds of trajectories stay in main memory, and processes do not send them to each other
        self.experts: Experts | None = None

    @property
    def student_lr(self) -> Tensor:
        """The student's current learning rate, a scalar."""
        return self.log_student_lr.exp()

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:
        """Read the experts; see ``Matcher.start``.

        Raises:
            ArtifactError: A file of the experts is missing or damaged.
            ConfigError: The experts saw other images or classes, were trained too briefly, or do not move.
        """
        experts = Experts.load(self.experts_path)
        if (experts.image_shape, experts.num_classes) != (tuple(image_shape), num_classes):
            raise ConfigError(
                f"{self.experts_path} has experts for images of shape {experts.image_shape} and {experts.num_classes} "
                f"classes; the data have {tuple(image_shape)} and {num_classes}. Train experts on the same data."
            )
        if self.max_start_epoch + self.expert_epochs > experts.epochs:
            raise ConfigError(
                f"max_start_epoch {self.max_start_epoch} and expert_epochs {self.expert_epochs} need experts of "
                f"{self.max_start_epoch + self.expert_epochs} epochs; those in {self.experts_path} have "
                f"{experts.epochs}. Lower one of the two, or train experts with a larger epochs_per_expert."
            )
        for index, weights in enumerate(experts.weights):
            pairs = zip(weights[: self.max_start_epoch + 1], weights[self.expert_epochs :], strict=False)
            at_rest = [t for t, (before, after) in enumerate(pairs) if torch.equal(before, after)]
            if at_rest:
                raise ConfigError(
                    f"Expert {index} in {self.experts_path} does not move in the {self.expert_epochs} epochs after "
                    f"epoch {at_rest[0]}, so that there is nothing to match. Train experts with another learning rate."
                )
        self.experts = experts

    def check_source(self, source: Mapping[str, Any]) -> None:
        """Refuse experts of other images, which would leak into the proxy; see ``Matcher.check_source``.

        Raises:
            ConfigError: The experts were trained with another mean, standard deviation or split.
        """
        assert self.experts is not None
        made = {key: self.experts.info.get(key, value) for key, value in source.items()}
        if made != source:
            raise ConfigError(
                f"The experts in {self.experts_path} were trained on images with {made}, these have {dict(source)}. "
                "Train experts on the same data, with the same train_limit, validation_fraction and split_seed."
            )

    def info(self) -> dict[str, Any]:
        """Return the student's learning rate, with which to train on the proxy; see ``Matcher.info``."""
        return {"student_lr": float(self.student_lr.detach())}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the student's learning rate, if it is trained; see ``Matcher.parameter_groups``."""
        if not self.log_student_lr.requires_grad:
            return []
        # weight decay, meant for images, would pull the rate towards 1
        return [{"params": [self.log_student_lr], "lr": self.lr_lr, "weight_decay": 0.0}]

    def loss(self, real: Batch, draw: Callable[[int], Synthetic], seed: int) -> Tensor:
        """Compute the distance from the expert, relative to how far the expert moved; see ``Matcher.loss``."""
        assert self.experts is not None
        generator = torch.Generator().manual_seed(derived_seed(seed, "expert"))
        counts = (len(self.experts.weights), self.max_start_epoch + 1)
        expert, t = (int(torch.randint(count, (1,), generator=generator)) for count in counts)
        trajectory = self.experts.weights[expert]
        before, after = (
            trajectory[epoch].to(self.log_student_lr, non_blocking=True) for epoch in (t, t + self.expert_epochs)
        )
        with torch.autocast(before.device.type, enabled=False):
            student = self._trained(self.experts.network(), before, draw, seed)
        return (student - after).square().sum() / (before - after).square().sum()

    def _trained(self, network: nn.Module, start: Tensor, draw: Callable[[int], Synthetic], seed: int) -> Tensor:
        """Train the student and return its weights after all steps, ``(parameters,)``."""
        weights, rate = start.detach().requires_grad_(), self.student_lr
        for step in range(self.student_steps):
            own = derived_seed(seed, "student", step)
            synthetic = draw(own)
            images, targets = synthetic.images, synthetic.targets
            if self.batch_size is not None:
                chosen = _chosen(len(images), self.batch_size, step, seed).to(images.device, non_blocking=True)
                images, targets = images[chosen], targets[chosen]
            if self.augmentation is not None:
                images = self.augmentation(images, own)
            logits = functional_call(network, named_weights(network, weights), (images,))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, targets), weights, create_graph=True)
            weights = weights - rate * gradient
        return weights


def _chosen(count: int, size: int, step: int, seed: int) -> Tensor:
    """Choose the images of a step: a part of the random order of its pass over all of them."""
    steps = math.ceil(count / size)
    generator = torch.Generator().manual_seed(derived_seed(seed, "pass", step // steps))
    return torch.randperm(count, generator=generator)[step % steps * size :][:size]
