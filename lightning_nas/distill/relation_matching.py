"""Similarities between samples that real and synthetic images have in common."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import Batch, ProxyRegularizer, Scheme
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.distribution import class_means
from lightning_nas.errors import ConfigError


class RelationMatching(ProxyRegularizer):
    """``weight / classes^2 * || S(real) - S(synthetic) ||^2``, S the mean cosine similarities of classes' samples.

    ``S[a, b]`` is the mean over all pairs of a sample of class a and one of class b: the product of the classes' mean
    normalised features, so that pairs are never made. Features are a randomly initialised ConvNet's, new in every step,
    less the mean of the real ones. A reconstruction: it stands for the relation matching that Scheme 2 of the pipeline
    may mean, after losses of the kind below.

    References:
        1. Deng et al.: Exploiting Inter-sample and Inter-feature Relations in Dataset Distillation, CVPR 2024,
           https://arxiv.org/abs/2404.00563

    Args:
        weight: Factor, at least 0.
        width: Channels of the embedding network.
        depth: Its blocks; each halves the image.
    """

    def __init__(self, weight: float = 1.0, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        if weight < 0:
            raise ConfigError(f"weight is {weight}; it must be at least 0.")
        self.weight = weight
        self.width = width
        self.depth = depth

    def loss(self, real: Batch, scheme: Scheme, seed: int) -> Tensor:
        """The weighted distance; see ``ProxyRegularizer.loss``."""
        synthetic = scheme.draw(seed)
        classes = int(synthetic.labels.max()) + 1
        _, channels, height, width = synthetic.images.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "relations"))
            embed = ConvNet((channels, height, width), 1, self.width, self.depth).features
        embed = embed.to(synthetic.images).requires_grad_(False)

        def similarities(features: Tensor, labels: Tensor) -> Tensor:
            means = class_means(F.normalize(features - centre, dim=1), labels, classes)
            return means @ means.t()

        with torch.no_grad():
            features = embed(real[0])
            centre = _averaged(features.mean(0))
            means = _averaged(class_means(F.normalize(features - centre, dim=1), real[1], classes))
            target = means @ means.t()
        return self.weight * F.mse_loss(similarities(embed(synthetic.images), synthetic.labels), target)


def _averaged(values: Tensor) -> Tensor:
    """The mean over all processes, each of which has its own real images."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values /= torch.distributed.get_world_size()
    return values
