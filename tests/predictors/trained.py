"""A trained auto-encoder, for tests."""

from typing import Any

import torch

from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.spaces.nasbench201.space import NASBench201Space


def trained(steps: int = 150) -> tuple[NASBench201Space, ArchitectureAutoEncoder, list[Any]]:
    """An auto-encoder of a small space that knows that convolutions are good."""
    space = NASBench201Space(("none", "skip_connect", "nor_conv_3x3"))
    torch.manual_seed(0)
    autoencoder = ArchitectureAutoEncoder(space.num_values, width=32, code=16, layers=1, heads=2)
    generator = torch.Generator().manual_seed(0)
    known = [space.sample(generator) for _ in range(150)]
    choices = torch.tensor([a.choices for a in known])
    goal = (choices == 2).sum(1).float()
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    for _ in range(steps):
        codes = autoencoder.encode(choices)
        loss = autoencoder.reconstruction_loss(codes, choices) + (autoencoder.scores(codes) - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return space, autoencoder, known
