"""Distribution matching."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from lightning_nas.distill.base import Batch, Matcher, Synthetic
from lightning_nas.distill.convnet import ConvNet, cached_images
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean feature of every class, ``(classes, features)``; zeros for a class that is absent."""
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    counts = torch.bincount(labels, minlength=num_classes).clamp(min=1)
    return sums / counts[:, None]


class DistributionMatching(Matcher):
    """``sum over classes of || mean f(real) - mean f(proxy) ||^2`` with randomly initialised ConvNets f, new a step.

    All classes go through a network in one forward pass. With several networks the distance is the mean over them.

    References:
        1. Zhao, Bilen: Dataset Condensation with Distribution Matching, WACV 2023, https://arxiv.org/abs/2110.04181

    Args:
        width: Channels of the embedding network (the paper: 128).
        depth: Its blocks; each halves the image (the paper: 3 at 32x32).
        networks: Embedding networks a step, at least 1; on a GPU they are computed together (the paper: 1).
        augmentation: Of real and synthetic images alike; none if null.
    """

    def __init__(
        self, width: int = 128, depth: int = 3, networks: int = 1, augmentation: SiameseAugmentation | None = None
    ) -> None:
        super().__init__()
        if networks < 1:
            raise ConfigError(f"networks is {networks}; it must be at least 1.")
        self.width = width
        self.depth = depth
        self.networks = networks
        self.augmentation = augmentation

    def loss(self, real: Batch, draw: Callable[[int], Synthetic], seed: int) -> Tensor:
        """The distance; see ``Matcher.loss``."""
        synthetic = draw(seed)
        images, labels, reals = synthetic.images, synthetic.labels, real[0]
        if self.augmentation is not None:
            images, reals = self.augmentation(images, seed), self.augmentation(reals, seed)
        embed = self._embedding((images.shape[1], images.shape[2], images.shape[3]), seed, images)
        classes = int(labels.max()) + 1
        with torch.no_grad():
            chunks = [embed(chunk) for chunk in reals.split(cached_images(reals, self.width))]
            targets = [class_means(features, real[1], classes) for features in torch.cat(chunks, 1)]
        found = [class_means(features, labels, classes) for features in embed(images)]
        distances = [(mean - target).square().sum() for mean, target in zip(found, targets, strict=True)]
        return torch.stack(distances).mean()

    def _embedding(self, shape: tuple[int, int, int], seed: int, like: Tensor) -> Callable[[Tensor], Tensor]:
        """Map images to features, ``(networks, batch, features)``."""
        # seeded, so that a resumed run meets the networks that the uninterrupted one would have met
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = [ConvNet(shape, 1, self.width, self.depth).features.to(like) for _ in range(self.networks)]
        # on a CPU one after the other is three times as fast
        return together(made) if like.is_cuda and self.networks > 1 else one_by_one(made)


def one_by_one(networks: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Map images to the features of frozen networks, ``(networks, batch, features)``."""
    for network in networks:
        network.requires_grad_(False)
    return lambda x: torch.stack([network(x) for network in networks])


def together(networks: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """``one_by_one`` of networks of the same form, in one batched pass."""
    parameters, buffers = stack_module_state(list(networks))
    parameters = {name: p.detach() for name, p in parameters.items()}

    def call(own: dict[str, Tensor], x: Tensor) -> Tensor:
        features: Tensor = functional_call(networks[0], (own, buffers), (x,))
        return features

    batched = vmap(call, in_dims=(0, None))

    def embed(x: Tensor) -> Tensor:
        features: Tensor = batched(parameters, x)
        return features

    return embed
