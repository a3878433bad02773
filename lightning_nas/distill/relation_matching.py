"""Matching of the similarities between samples."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import ProxyRegularizer, Scheme
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.distribution import class_means


class RelationMatching(ProxyRegularizer):
    """Makes synthetic images resemble each other, class by class, as real images do.

    The term is

        weight / classes^2 * || S(real) - S(synthetic) ||^2

    where ``S[a, b]`` is the mean cosine similarity over all pairs of a sample of class a and a sample of class b. It
    equals the product of the classes' mean normalized features, so that no pairs have to be formed. Features are those
    of a randomly initialized ``ConvNet``, a new one in every step, minus the mean of the real features.

    Which relations Scheme 2 of the pipeline matches is not public. This is a reconstruction, following losses of the
    kind below.

    References:
        1. Deng et al.: Exploiting Inter-sample and Inter-feature Relations in Dataset Distillation, CVPR 2024,
           https://arxiv.org/abs/2404.00563

    Args:
        weight: Weight of the term, at least 0.
        width: Channels of the network, at least 1.
        depth: Blocks of the network, at least 1; each halves the image.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        regularizers:
          - class_path: RelationMatching
            init_args:
              weight: 1.0
        ```
    """

    def __init__(self, weight: float = 1.0, *, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        at_least(0, weight=weight)
        at_least(1, width=width, depth=depth)
        self.weight = weight
        self.width = width
        self.depth = depth

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:
        """Remember the number of classes; see ``ProxyRegularizer.start``."""
        self.num_classes = num_classes

    def loss(self, real: Batch, scheme: Scheme, seed: int) -> Tensor:
        """Compute the weighted distance; see ``ProxyRegularizer.loss``."""
        synthetic = scheme.draw(seed)
        _, channels, height, width = synthetic.images.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "relations"))
            embed = ConvNet((channels, height, width), 1, self.width, self.depth).features
        embed = embed.to(synthetic.images, non_blocking=True).requires_grad_(False)

        def similarities(features: Tensor, labels: Tensor) -> Tensor:
            means = class_means(F.normalize(features - centre, dim=1), labels, self.num_classes)
            return means @ means.t()

        with torch.no_grad():
            features = embed(real[0])
            centre = _averaged(features.mean(0))
            means = _averaged(class_means(F.normalize(features - centre, dim=1), real[1], self.num_classes))
            target = means @ means.t()
        return self.weight * F.mse_loss(similarities(embed(synthetic.images), synthetic.labels), target)


def _averaged(values: Tensor) -> Tensor:
    """Average over all processes, each of which has real images of its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values /= torch.distributed.get_world_size()
    return values
