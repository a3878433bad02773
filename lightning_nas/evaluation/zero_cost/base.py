"""What a zero-cost score is, and what it looks at."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Activations(NamedTuple):
    """What one forward pass leaves in a network.

    Attributes:
        blocks: Output of every block, ``(batch, channels, height, width)`` each.
        active: For every ReLU, which of its outputs are above zero, bool ``(batch, units)``.
        maps: Outputs of the convolutions and linear layers, in the order in which they ran.
    """

    blocks: list[Tensor]
    active: list[Tensor]
    maps: list[Tensor]


class Probe:
    """An untrained network with a small batch of images, which several scores look at in turn.

    The network is in training mode, so that batch norms use the statistics of the batch. Its *blocks* are the entries
    of the longest ``nn.ModuleList`` directly inside the network, such as the cells of a cell space; where there is
    none, of the longest ``nn.Sequential``, such as the chain of choice blocks.

    Args:
        network: Maps images to logits. Its weights are as they were drawn.
        images: ``(batch, channels, height, width)``, normalised.
        labels: Class indices, ``(batch,)``.
        num_classes: Number of classes.
        seed: Seed of the random numbers that a score draws.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        seed: int = 0,
    ) -> None:
        self.network = network.train()
        self.images = images
        self.labels = labels
        self.num_classes = num_classes
        self.seed = seed

    def logits(self, images: Tensor | None = None) -> Tensor:
        """Logits of the images, or of others, ``(batch, classes)``."""
        logits: Tensor = self.network(self.images if images is None else images)
        return logits

    def loss(self) -> Tensor:
        """Cross entropy of the images."""
        return F.cross_entropy(self.logits(), self.labels)

    def generator(self) -> torch.Generator:
        """A generator for what a score draws, the same at every call."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def layers(self) -> list[nn.Module]:
        """Convolutions and linear layers."""
        return [m for m in self.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]

    @property
    def weights(self) -> list[Tensor]:
        """Weights of the convolutions and linear layers."""
        found = []
        for layer in self.layers:
            assert isinstance(layer.weight, Tensor)
            found.append(layer.weight)
        return found

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The blocks in order; see the class."""
        children = list(self.network.children())
        for kind in (nn.ModuleList, nn.Sequential):
            lists = [list(m.children()) for m in children if isinstance(m, kind)]
            if lists:
                return max(lists, key=len)
        return []

    def block_outputs(self) -> list[Tensor]:
        """Output of every block, from one forward pass that can be differentiated."""
        outputs: list[Tensor] = []
        handles = [m.register_forward_hook(lambda _m, _i, output: outputs.append(output)) for m in self.blocks]
        try:
            self.logits()
        finally:
            for handle in handles:
                handle.remove()
        return outputs

    @cached_property
    def entropies(self) -> list[float]:
        """Entropy of the principal components of every block's output; see ``feature_entropy``."""
        return [feature_entropy(features) for features in self.activations.blocks]

    @cached_property
    def activations(self) -> Activations:
        """What one forward pass without gradients leaves; computed once for all scores."""
        active: list[Tensor] = []
        maps: list[Tensor] = []

        def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if isinstance(module, nn.ReLU):
                active.append((output > 0).flatten(1))
            else:
                maps.append(output.clone())  # a ReLU behind it may work in place

        rectifiers = [m for m in self.network.modules() if isinstance(m, nn.ReLU)]
        handles = [module.register_forward_hook(look) for module in (*rectifiers, *self.layers)]
        try:
            with torch.no_grad():
                blocks = self.block_outputs()
        finally:
            for handle in handles:
                handle.remove()
        return Activations(blocks, active, maps)


def feature_entropy(features: Tensor) -> float:
    """Entropy of the principal components of a feature map.

    Every pixel of every image is a sample of as many variables as there are channels. With ``q`` the eigenvalues of the
    samples' covariance divided by their sum, the entropy is ``-sum q log q``: 0 where all channels say the same,
    ``log channels`` where they are uncorrelated with equal variances.

    Args:
        features: ``(batch, channels, height, width)``.
    """
    samples = features.permute(1, 0, 2, 3).flatten(1).double()
    samples = samples - samples.mean(1, keepdim=True)
    values = torch.linalg.eigvalsh(samples @ samples.t()).clamp_min(0)
    total = values.sum()
    return float(torch.special.entr(values / total).sum()) if total > 0 else 0.0


class ZeroCostScore(ABC):
    """A number that an untrained network gives its architecture; higher is better.

    Attributes:
        name: Name of the score among the objectives of ``ZeroCost``.
    """

    name: str

    @abstractmethod
    def score(self, probe: Probe) -> float:
        """Score a network, and leave its weights as they were.

        Args:
            probe: The network with its images.

        Returns:
            A finite number, or ``-inf`` where the network passes nothing on.
        """
