"""The adversarial contrast, which keeps hallucinators apart."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from lightning_nas.checks import at_least, greater_than
from lightning_nas.data.sets import Batch
from lightning_nas.data.splits import derived_seed
from lightning_nas.distill.base import ProxyRegularizer, Scheme
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.errors import ConfigError

_AGREE = 0.1
"""Weight of cosine similarity and of supervised contrast in the feature network's loss, as published."""

_TEMPERATURE = 0.1


class AdversarialContrast(ProxyRegularizer):
    """Makes two hallucinations of a base look different to a network that learns to recognize the base in both.

    In every step, two random hallucinators make images of all bases. First the feature network takes a step of gradient
    descent that makes the features f, f' of a base's two images agree:

        cross-entropy + 0.1 (1 - mean cos(f, f')) + 0.1 supervised contrast

    Then the hallucinators pay ``weight * mean cos(f, f')``. The network's weights are buffers, so that checkpoints
    contain them.

    References:
        1. Liu, Wang, Yang, Ye, Wang: Dataset Distillation via Factorization, NeurIPS 2022,
           https://arxiv.org/abs/2210.16774
        2. Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020, https://arxiv.org/abs/2004.11362

    Args:
        weight: Weight of the similarity in the hallucinators' loss, at least 0 (paper 1: 0.1).
        learning_rate: Learning rate of the feature network, above 0.
        width: Channels of the feature network, at least 1.
        depth: Blocks of the feature network, at least 1; each halves the image.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        regularizers:
          - class_path: AdversarialContrast
            init_args:
              weight: 0.1
        ```
    """

    def __init__(self, weight: float = 0.1, *, learning_rate: float = 0.01, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        at_least(0, weight=weight)
        greater_than(0, learning_rate=learning_rate)
        at_least(1, width=width, depth=depth)
        self.weight = weight
        self.learning_rate = learning_rate
        self.width = width
        self.depth = depth

    def start(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:
        """Make the feature network; see ``Matcher.start``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ConvNet(image_shape, num_classes, self.width, self.depth)
        self.network = network.requires_grad_(False)

    def loss(self, real: Batch, scheme: Scheme, seed: int) -> Tensor:
        """Train the feature network, then compute the weighted similarity; see ``ProxyRegularizer.loss``."""
        if not isinstance(scheme, HallucinatedBases) or scheme.hallucinators < 2:
            raise ConfigError(
                f"{type(self).__name__} needs HallucinatedBases with at least two hallucinators; it got "
                f"{type(scheme).__name__}. Leave it out, or change the scheme."
            )
        order = torch.randperm(
            scheme.hallucinators, generator=torch.Generator().manual_seed(derived_seed(seed, "pair"))
        )
        first, second = (scheme.by_one(int(i)) for i in order[:2])
        self._learn(first.images.detach(), second.images.detach(), first.labels)
        return self.weight * self._similarity(self.network.features(first.images), self.network.features(second.images))

    @staticmethod
    def _similarity(a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(a, b).mean()

    @torch.no_grad()
    def _learn(self, first: Tensor, second: Tensor, labels: Tensor) -> None:
        # not through .backward(): the hooks of a distributed run expect one backward pass per step
        weights = {name: p.detach().requires_grad_() for name, p in self.network.named_parameters()}
        with torch.enable_grad():
            features = functional_call(
                self.network.features,
                {name.removeprefix("features."): w for name, w in weights.items() if name.startswith("features.")},
                (torch.cat([first, second]),),
            )
            logits = F.linear(features, weights["classifier.weight"], weights["classifier.bias"])
            loss = F.cross_entropy(logits, torch.cat([labels, labels]))
            loss = loss + _AGREE * (1 - self._similarity(*features.chunk(2)))
            loss = loss + _AGREE * supervised_contrast(features, torch.cat([labels, labels]))
        gradients = torch.autograd.grad(loss, list(weights.values()))
        for parameter, gradient in zip(self.network.parameters(), gradients, strict=True):
            parameter.sub_(self.learning_rate * gradient)


def supervised_contrast(features: Tensor, labels: Tensor) -> Tensor:
    """Compute the supervised contrastive loss.

    For each sample, the softmax of ``cosine / 0.1`` runs over all other samples; its logarithm is averaged over the
    other samples of the same class, and the negative of that over all samples.

    Args:
        features: ``(n, features)``.
        labels: ``(n,)``. Every class must occur at least twice.

    Returns:
        A scalar.
    """
    unit = F.normalize(features, dim=1)
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logits = (unit @ unit.t() / _TEMPERATURE).masked_fill(own, -torch.inf)
    alike = (labels[:, None] == labels) & ~own
    logs = logits.log_softmax(1).masked_fill(~alike, 0.0)
    return -(logs.sum(1) / alike.sum(1)).mean()
