"""Small experts for tests."""

import torch
from torch import Tensor

from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.experts import Experts

SHAPE, CLASSES, WIDTH, DEPTH = (1, 8, 8), 3, 4, 2
PARAMETERS = sum(p.numel() for p in ConvNet(SHAPE, CLASSES, WIDTH, DEPTH).parameters())
PATH = "experts.safetensors"


def experts(weights: Tensor) -> Experts:
    return Experts(weights.float(), WIDTH, DEPTH, SHAPE, CLASSES, {"source": "made up"})


def wandering(seed: int = 0, count: int = 2, epochs: int = 4) -> Experts:
    """Networks that start as ConvNets do, and move at random."""
    torch.manual_seed(seed)
    first = torch.stack([flat(ConvNet(SHAPE, CLASSES, WIDTH, DEPTH)) for _ in range(count)])
    steps = 0.03 * torch.randn(count, epochs + 1, PARAMETERS)
    return experts(first[:, None] + steps.cumsum(1))


def flat(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])
