"""Synaptic flow: a score of an untrained network, without data."""

from collections.abc import Sequence

import torch
from torch import nn

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.spaces.artifact import build_space

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class SynFlow(Evaluator):
    """How much the weights of an untrained network let through: the logarithm of its synaptic flow, higher is better.

    With all weights replaced by their magnitudes and an image of ones, ``R`` is the sum of the logits; the score is
    ``log sum_w w * dR/dw`` over all weights of convolutions and linear layers. Batch norms pass on what they get, or
    the flow would be the same through every layer. Computed in float64: it grows with the product of all layers.

    Objective: ``synflow``. It costs no query.

    References:
        1. Tanaka, Kunin, Yamins, Ganguli: Pruning neural networks without any data by iteratively conserving synaptic
           flow, NeurIPS 2020, https://arxiv.org/abs/2006.05467
        2. Abdelfattah, Mehrotra, Dudziak, Lane: Zero-Cost Proxies for Lightweight NAS, ICLR 2021,
           https://arxiv.org/abs/2101.08134

    Args:
        channels: Channels of the first cell.
        cells: Cells of the network, as the space counts them.
        image_size: Side of the image.
        num_classes: Width of the classifier.
        seed: Of the weights.

    Raises:
        ConfigError: A number is below 1.
    """

    def __init__(
        self, channels: int = 8, cells: int = 1, image_size: int = 16, num_classes: int = 10, seed: int = 0
    ) -> None:
        if min(channels, cells, image_size, num_classes) < 1:
            raise ConfigError(
                f"channels, cells, image_size and num_classes are {channels}, {cells}, {image_size} and {num_classes}; "
                "all must be at least 1."
            )
        self.channels = channels
        self.cells = cells
        self.image_size = image_size
        self.num_classes = num_classes
        self.seed = seed
        self._known: dict[Architecture, float] = {}

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Build every network, and let one image flow through it; once, and always on the CPU."""
        for architecture in architectures:
            if architecture not in self._known:
                self._known[architecture] = self._score(architecture)
        return [Evaluation({"synflow": self._known[architecture]}) for architecture in architectures]

    def _score(self, architecture: Architecture) -> float:
        shape = (3, self.image_size, self.image_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = build_space(architecture.space).network(
                architecture,
                num_classes=self.num_classes,
                image_shape=shape,
                channels=self.channels,
                cells=self.cells,
            )
        return synflow(network, shape)


def synflow(network: nn.Module, image_shape: Sequence[int]) -> float:
    """The score of a network; see ``SynFlow``.

    Args:
        network: Any that maps images to logits; its weights are changed.
        image_shape: ``(channels, height, width)`` of an image.

    Returns:
        ``-inf`` where nothing passes.
    """
    network = network.double().eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    weights = [module.weight for module in network.modules() if isinstance(module, _WEIGHTED)]
    with torch.enable_grad():
        flow = network(torch.ones(1, *image_shape, dtype=torch.float64)).sum()
        gradients = torch.autograd.grad(flow, weights, allow_unused=True)
    flows = [(w * g).sum().detach() for w, g in zip(weights, gradients, strict=True) if g is not None]
    return float(torch.stack(flows).sum().log())
