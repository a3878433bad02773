"""Distribution matching."""

import torch
from torch import Tensor

from lightning_nas.distill.base import Matcher
from lightning_nas.distill.convnet import ConvNet


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean feature of every class, ``(classes, features)``; zeros for a class that is absent."""
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1)
    return sums / counts[:, None]


class DistributionMatching(Matcher):
    """``sum over classes of || mean f(real) - mean f(proxy) ||^2`` with a randomly initialised ConvNet f a step.

    All classes go through the network in one forward pass.

    References:
        1. Zhao, Bilen: Dataset Condensation with Distribution Matching, WACV 2023, https://arxiv.org/abs/2110.04181

    Args:
        width: Channels of the embedding network (the paper: 128).
        depth: Its blocks; each halves the image (the paper: 3 at 32x32).
    """

    def __init__(self, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.width = width
        self.depth = depth

    def loss(self, real: tuple[Tensor, Tensor], proxy: tuple[Tensor, Tensor], seed: int) -> Tensor:
        """The distance; see ``Matcher.loss``."""
        images, labels = proxy
        _, channels, height, width = images.shape
        # seeded, so that a resumed run meets the networks that the uninterrupted one would have met
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            embed = ConvNet((channels, height, width), 1, self.width, self.depth).features.to(images.device)
        embed.requires_grad_(False)
        classes = int(labels.max()) + 1
        with torch.no_grad():
            target = class_means(embed(real[0]), real[1], classes)
        return (class_means(embed(images), labels, classes) - target).square().sum()
