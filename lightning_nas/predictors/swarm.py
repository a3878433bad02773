"""A competitive swarm (Cheng and Jin, 2015), and scores of codes that are not the code of an architecture (TNAO)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder

Fitness = Callable[[Tensor], Tensor]
"""From particles ``(n, dimensions)`` to their fitness ``(n,)``; higher is better."""


class CompetitiveSwarm:
    """Particles that compete in random pairs: the loser learns from the winner, and the winner stays where it is.

    For the loser ``l`` and the winner ``w`` of every pair,

    ``v_l = r1 * v_l + r2 * (x_w - x_l) + phi * r3 * (mean - x_l)`` and ``x_l = x_l + v_l``, clipped to the box,

    where ``r1``, ``r2`` and ``r3`` are uniform in [0, 1) for every pair and dimension, and ``mean`` is the mean of all
    particles. A particle keeps its velocity while it wins. Half of the particles are evaluated per generation. The
    swarm does not remember its best particle; the fitness function can.

    References:
        1. Cheng, Jin: A Competitive Swarm Optimizer for Large Scale Optimization, IEEE Transactions on Cybernetics
           45(2), 2015, https://doi.org/10.1109/TCYB.2014.2322602

    Args:
        particles: Number of particles, even and at least 2.
        generations: Number of generations, at least 1.
        phi: Attraction to the mean, at least 0. The paper uses 0 for fewer than 500 dimensions.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```python
        swarm = CompetitiveSwarm(particles=20, generations=30)
        low, high = torch.zeros(8), torch.ones(8)
        found = swarm.run(lambda x: -x.square().sum(1), low, high, torch.Generator().manual_seed(0))
        ```
    """

    def __init__(self, particles: int = 100, *, generations: int = 50, phi: float = 0.0) -> None:
        at_least(2, particles=particles)
        at_least(1, generations=generations)
        at_least(0, phi=phi)
        if particles % 2:
            raise ConfigError(f"particles is {particles}; it must be even, because particles compete in pairs.")
        self.particles = particles
        self.generations = generations
        self.phi = phi

    def start(self, low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
        """Draw uniform positions in a box.

        Args:
            low: Lower corner of the box, ``(dimensions,)``.
            high: Upper corner of the box, ``(dimensions,)``.
            generator: The source of all random numbers.

        Returns:
            The positions, ``(particles, dimensions)``.
        """
        drawn = torch.rand(self.particles, len(low), generator=generator, dtype=low.dtype)
        return low + (high - low) * drawn

    def run(
        self, fitness: Fitness, low: Tensor, high: Tensor, generator: torch.Generator, start: Tensor | None = None
    ) -> Tensor:
        """Move the particles in a box.

        Args:
            fitness: Called once for all particles, and then for the losers of every generation.
            low: Lower corner of the box, ``(dimensions,)``.
            high: Upper corner of the box, ``(dimensions,)``.
            generator: The source of all random numbers.
            start: Positions at the beginning, ``(particles, dimensions)``; by default uniform in the box.

        Returns:
            The positions at the end, ``(particles, dimensions)``.
        """
        positions = self.start(low, high, generator) if start is None else start.clamp(low, high)
        velocities = torch.zeros_like(positions)
        values = fitness(positions)
        for _ in range(self.generations):
            pairs = torch.randperm(self.particles, generator=generator).view(-1, 2)
            first_wins = values[pairs[:, 0]] >= values[pairs[:, 1]]
            winners = torch.where(first_wins, pairs[:, 0], pairs[:, 1])
            losers = torch.where(first_wins, pairs[:, 1], pairs[:, 0])
            r1, r2, r3 = torch.rand(3, len(pairs), len(low), generator=generator, dtype=low.dtype)
            velocity = r1 * velocities[losers] + r2 * (positions[winners] - positions[losers])
            velocity = velocity + self.phi * r3 * (positions.mean(0) - positions[losers])
            velocities[losers] = velocity
            positions[losers] = (positions[losers] + velocity).clamp(low, high)
            values[losers] = fitness(positions[losers])
        return positions


class Remapped(NamedTuple):
    """Decoded codes.

    Attributes:
        choices: The choices that the codes decode to, int64 ``(n, positions)``.
        scores: The scores of the codes, ``(n,)``.
    """

    choices: Tensor
    scores: Tensor


class Remapping(ABC):
    """Scores codes that are not the code of an architecture, although the predictor was trained on such codes alone.

    Example:
        ```python
        class Unchecked(Remapping):
            def remap(self, autoencoder, codes):
                return Remapped(autoencoder.decode(codes).argmax(2), autoencoder.scores(codes))
        ```
    """

    @abstractmethod
    def remap(self, autoencoder: ArchitectureAutoEncoder, codes: Tensor) -> Remapped:
        """Decode and score codes.

        Args:
            autoencoder: The auto-encoder.
            codes: The codes, ``(n, code)``.
        """


class Reencoding(Remapping):
    """Decodes a code to an architecture, encodes that again, and scores the resulting code.

    Example:
        ```yaml
        remapping: Reencoding
        ```
    """

    def remap(self, autoencoder: ArchitectureAutoEncoder, codes: Tensor) -> Remapped:
        """Decode and score codes; see ``Remapping.remap``."""
        choices = autoencoder.decode(codes).argmax(2)
        return Remapped(choices, autoencoder.scores(autoencoder.encode(choices)))


class DistancePenalty(Remapping):
    """Scores a code itself, minus ``weight`` times its Euclidean distance from the code of what it decodes to.

    Args:
        weight: Weight of the distance, at least 0; 0 ignores how far a code is from that of an architecture.

    Raises:
        ConfigError: ``weight`` is negative.

    Example:
        ```yaml
        remapping: {class_path: DistancePenalty, init_args: {weight: 0.5}}
        ```
    """

    def __init__(self, weight: float = 1.0) -> None:
        at_least(0, weight=weight)
        self.weight = weight

    def remap(self, autoencoder: ArchitectureAutoEncoder, codes: Tensor) -> Remapped:
        """Decode and score codes; see ``Remapping.remap``."""
        choices = autoencoder.decode(codes).argmax(2)
        distance = (codes - autoencoder.encode(choices)).norm(dim=1)
        return Remapped(choices, autoencoder.scores(codes) - self.weight * distance)
