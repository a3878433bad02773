"""Distribution matching."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from lightning_nas.checks import at_least
from lightning_nas.data.sets import Batch
from lightning_nas.distill.base import Matcher, Synthetic
from lightning_nas.distill.convnet import ConvNet, cached_images
from lightning_nas.distill.siamese import SiameseAugmentation


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Compute the mean feature of every class.

    Args:
        features: ``(n, features)``.
        labels: ``(n,)``.
        num_classes: Number of classes.

    Returns:
        ``(classes, features)``, zeros for a class that does not occur.
    """
    sums = features.new_zeros(num_classes, features.shape[1]).index_add(0, labels, features)
    # unlike bincount, this does not wait for a GPU
    counts = features.new_zeros(num_classes).index_add(0, labels, features.new_ones(len(labels))).clamp(min=1)
    return sums / counts[:, None]


class DistributionMatching(Matcher):
    """Matches the mean features of every class in random networks.

    The distance is

        sum over classes of || mean f(real) - mean f(proxy) ||^2

    where f is a randomly initialized ``ConvNet`` without its classifier, a new one in every step, so that the proxy
    suits no network in particular. All classes go through the network in one forward pass. With several networks the
    distance is the mean over them.

    References:
        1. Zhao, Bilen: Dataset Condensation with Distribution Matching, WACV 2023, https://arxiv.org/abs/2110.04181

    Args:
        width: Channels of the network, at least 1 (the paper: 128).
        depth: Blocks of the network, at least 1; each halves the image (the paper: 3 at 32x32).
        networks: Networks per step, at least 1 (the paper: 1). On a GPU they are computed together.
        augmentation: Change that real and synthetic images get alike; none if null.

    Raises:
        ConfigError: A number is below 1.

    Example:
        ```yaml
        matcher:
          class_path: DistributionMatching
          init_args:
            width: 64
            augmentation:
              class_path: SiameseAugmentation
        ```
    """

    def __init__(
        self, width: int = 128, *, depth: int = 3, networks: int = 1, augmentation: SiameseAugmentation | None = None
    ) -> None:
        super().__init__()
        at_least(1, width=width, depth=depth, networks=networks)
        self.width = width
        self.depth = depth
        self.networks = networks
        self.augmentation = augmentation

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:
        """Remember the number of classes; see ``Matcher.start``."""
        self.num_classes = num_classes

    def loss(self, real: Batch, draw: Callable[[int], Synthetic], seed: int) -> Tensor:
        """Compute the distance; see ``Matcher.loss``."""
        synthetic = draw(seed)
        images, labels, reals = synthetic.images, synthetic.labels, real[0]
        if self.augmentation is not None:
            images, reals = self.augmentation(images, seed), self.augmentation(reals, seed)
        embed = self._embedding((images.shape[1], images.shape[2], images.shape[3]), seed, images)
        with torch.no_grad():
            chunks = [embed(chunk) for chunk in reals.split(cached_images(reals, self.width))]
            targets = [class_means(features, real[1], self.num_classes) for features in torch.cat(chunks, 1)]
        found = [class_means(features, labels, self.num_classes) for features in embed(images)]
        distances = [(mean - target).square().sum() for mean, target in zip(found, targets, strict=True)]
        return torch.stack(distances).mean()

    def _embedding(self, shape: tuple[int, int, int], seed: int, like: Tensor) -> Callable[[Tensor], Tensor]:
        """Make the function that maps images to features, ``(networks, batch, features)``."""
        # seeded, so that a resumed run gets the same networks as an uninterrupted one
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = [ConvNet(shape, 1, self.width, self.depth).features for _ in range(self.networks)]
        made = [each.to(like, non_blocking=True) for each in made]
        # on a CPU, one after the other is three times as fast
        return together(made) if like.is_cuda and self.networks > 1 else one_by_one(made)


def one_by_one(networks: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Freeze networks and join them to one function.

    Args:
        networks: Networks that map images to features.

    Returns:
        A function from images to features, ``(networks, batch, features)``.
    """
    for network in networks:
        network.requires_grad_(False)
    return lambda x: torch.stack([network(x) for network in networks])


def together(networks: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Do as ``one_by_one`` for networks of the same form, but compute them in one batched pass.

    Args:
        networks: Networks that map images to features.

    Returns:
        A function from images to features, ``(networks, batch, features)``.
    """
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
