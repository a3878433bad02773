"""Synaptic flow: a score of an untrained network without data."""

from collections.abc import Sequence

import torch
from torch import nn

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.spaces.artifact import build_space

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class SynFlow(Evaluator):
    """Scores an architecture by the synaptic flow of its untrained network; no data and no query are needed.

    ``synflow = log sum over weights w of w * dR/dw``

    All weights are replaced by their absolute values, the input is an image of ones, ``R`` is the sum of the logits,
    and the sum runs over the weights of all convolutions and linear layers. Batch norms are reset, so that they pass on
    what they receive: otherwise they would level out the flow of every layer. The score is computed in float64 and
    taken as a logarithm, because the flow grows with the product of all layers.

    Objective: ``synflow``, higher is better.

    References:
        1. Tanaka, Kunin, Yamins, Ganguli: Pruning neural networks without any data by iteratively conserving synaptic
           flow, NeurIPS 2020, https://arxiv.org/abs/2006.05467
        2. Abdelfattah, Mehrotra, Dudziak, Lane: Zero-Cost Proxies for Lightweight NAS, ICLR 2021,
           https://arxiv.org/abs/2101.08134

    Args:
        channels: Channels of the first cell, at least 1. By default the network is small, so that a score takes little
            time.
        cells: Number of cells, as the space counts them, at least 1.
        image_size: Side length of the image in pixels, at least 1.
        num_classes: Number of classes, at least 1.
        seed: Seed of the weights.

    Raises:
        ConfigError: A number is less than 1.

    Example:
        ```yaml
        strategy: {class_path: LocalSearch, init_args: {from_largest: true, order: SynFlow}}
        ```
    """

    stochastic = False

    def __init__(
        self, channels: int = 8, cells: int = 1, image_size: int = 16, num_classes: int = 10, seed: int = 0
    ) -> None:
        at_least(1, channels=channels, cells=cells, image_size=image_size, num_classes=num_classes)
        self.channels = channels
        self.cells = cells
        self.image_size = image_size
        self.num_classes = num_classes
        self.seed = seed
        self._known: dict[Architecture, float] = {}

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Score every architecture once, always on the CPU; see ``Evaluator.evaluate``."""
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
    """The logarithm of the synaptic flow of a network; see ``SynFlow``.

    Args:
        network: A network from images to logits. Its weights are changed.
        image_shape: Shape of an image, ``(channels, height, width)``.

    Returns:
        The score; ``-inf`` if no path leads from the image to the logits.
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
