"""A competitive swarm in the code space of an auto-encoder (TNAO)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_nas.errors import ConfigError
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder

Fitness = Callable[[Tensor], Tensor]
"""From particles ``(n, dimensions)`` to what they are worth ``(n,)``, higher is better."""


class CompetitiveSwarm:
    """Particles meet in random pairs; the loser learns from the winner, who stays.

    ``V_l = R1 V_l + R2 (X_w - X_l) + phi R3 (mean - X_l)`` and ``X_l = X_l + V_l``, clipped to the box, for every loser
    l and winner w of a pair; R1, R2 and R3 are uniform from 0 to 1, drawn anew for every number of every pair, and the
    mean is that of all particles. Half of the particles are evaluated a generation. A loser's velocity stays with it
    when it wins later. No best particle is kept: who needs one watches the fitness.

    References:
        1. Cheng, Jin: A Competitive Swarm Optimizer for Large Scale Optimization, IEEE Transactions on Cybernetics
           45(2), 2015, https://doi.org/10.1109/TCYB.2014.2322602

    Args:
        particles: How many, even, at least 2.
        generations: At least 1.
        phi: Pull towards the mean, at least 0 (the paper: 0 below 500 dimensions).

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(self, particles: int = 100, generations: int = 50, phi: float = 0.0) -> None:
        if particles < 2 or particles % 2 or generations < 1 or phi < 0:
            raise ConfigError(
                f"particles is {particles}, generations {generations} and phi {phi}; they must be even and at least 2, "
                "at least 1, and at least 0."
            )
        self.particles = particles
        self.generations = generations
        self.phi = phi

    def start(self, low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform positions in a box, ``(particles, dimensions)``; the corners are ``(dimensions,)`` each."""
        drawn = torch.rand(self.particles, len(low), generator=generator, dtype=low.dtype)
        return low + (high - low) * drawn

    def run(
        self, fitness: Fitness, low: Tensor, high: Tensor, generator: torch.Generator, start: Tensor | None = None
    ) -> Tensor:
        """Let particles move in a box.

        Args:
            fitness: Called for all particles once, then for the losers of every generation.
            low: Least position, ``(dimensions,)``.
            high: Largest position, likewise.
            generator: Of all random numbers.
            start: Positions at the beginning, ``(particles, dimensions)``; by default uniform in the box.

        Returns:
            The positions at the end, ``(particles, dimensions)``.
        """
        positions = self.start(low, high, generator) if start is None else start.clamp(low, high)
        velocities = torch.zeros_like(positions)
        worth = fitness(positions)
        for _ in range(self.generations):
            pairs = torch.randperm(self.particles, generator=generator).view(-1, 2)
            first_wins = worth[pairs[:, 0]] >= worth[pairs[:, 1]]
            winners = torch.where(first_wins, pairs[:, 0], pairs[:, 1])
            losers = torch.where(first_wins, pairs[:, 1], pairs[:, 0])
            r1, r2, r3 = torch.rand(3, len(pairs), len(low), generator=generator, dtype=low.dtype)
            velocity = r1 * velocities[losers] + r2 * (positions[winners] - positions[losers])
            velocity = velocity + self.phi * r3 * (positions.mean(0) - positions[losers])
            velocities[losers] = velocity
            positions[losers] = (positions[losers] + velocity).clamp(low, high)
            worth[losers] = fitness(positions[losers])
        return positions


class Remapped(NamedTuple):
    """What codes stand for.

    Attributes:
        choices: The decoded architectures, int64 ``(n, positions)``.
        scores: What the codes are worth, ``(n,)``.
    """

    choices: Tensor
    scores: Tensor


class Remapping(ABC):
    """How a code is scored that is no architecture's code: the predictor knows only these."""

    @abstractmethod
    def remap(self, autoencoder: ArchitectureAutoEncoder, codes: Tensor) -> Remapped:
        """Decode codes ``(n, code)``, and score them."""


class Reencoding(Remapping):
    """The score of the code of the architecture that a code is decoded to."""

    def remap(self, autoencoder: ArchitectureAutoEncoder, codes: Tensor) -> Remapped:
        """See ``Remapping.remap``."""
        choices = autoencoder.decode(codes).argmax(2)
        return Remapped(choices, autoencoder.scores(autoencoder.encode(choices)))


class DistancePenalty(Remapping):
    """The score of the code itself, less ``weight`` times its distance from the code of what it is decoded to.

    Args:
        weight: At least 0; 0 scores the code alone, wherever it is.
    """

    def __init__(self, weight: float = 1.0) -> None:
        if weight < 0:
            raise ConfigError(f"weight is {weight}; it must be at least 0.")
        self.weight = weight

    def remap(self, autoencoder: ArchitectureAutoEncoder, codes: Tensor) -> Remapped:
        """See ``Remapping.remap``."""
        choices = autoencoder.decode(codes).argmax(2)
        distance = (codes - autoencoder.encode(choices)).norm(dim=1)
        return Remapped(choices, autoencoder.scores(codes) - self.weight * distance)
