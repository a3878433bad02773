"""Searches in the code space of an auto-encoder of architectures: TNAO (He et al., IJCNN 2023) and NAO."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, greater_than
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.predictors.swarm import CompetitiveSwarm, Reencoding, Remapping
from lightning_nas.strategies.base import Strategy


class CodeSearch(Strategy):
    """Searches for codes with high scores, and proposes the architectures that they decode to.

    Those with the highest scores come first, or, if ``in_order``, those that were recorded first. Where several codes
    decode to an architecture, the highest of their scores is its score.

    Needs an auto-encoder that was trained on the architectures which the strategy was told; ``AutoEncoderTask`` trains
    it.

    Attributes:
        autoencoder: The auto-encoder; set after ``start``.
        in_order: Whether architectures are proposed in the order in which they were recorded.

    Example:
        ```python
        class BestCodes(CodeSearch):
            def explore(self, codes, fitness):
                near = codes[fitness.argmax()] + 0.1 * torch.randn(1000, codes.shape[1], generator=self.generator)
                with torch.no_grad():
                    self.record(self.autoencoder.decode(near).argmax(2), self.autoencoder.scores(near))
        ```
    """

    autoencoder: ArchitectureAutoEncoder | None = None
    in_order: ClassVar[bool] = False

    def ask(self, count: int) -> list[Architecture]:
        """Propose the architectures with the highest scores; see ``Strategy.ask``.

        Raises:
            ConfigError: There is no auto-encoder, or no evaluated architecture.
        """
        if self.autoencoder is None or not self.evaluated:
            raise ConfigError(
                f"{type(self).__name__} has {'no' if self.autoencoder is None else 'an'} auto-encoder and knows "
                f"{len(self.evaluated)} architectures. Train one on known architectures first, as "
                "'lightning-nas fit --config predict/tnao' does."
            )
        self._found: dict[str, tuple[float, Architecture]] = {}
        self._places: dict[tuple[int, ...], str | None] = {}
        training = self.autoencoder.training
        self.autoencoder.eval()
        with torch.no_grad():
            choices = torch.tensor([a.choices for a in self.evaluated.values()])
            codes = torch.cat([self.autoencoder.encode(part) for part in choices.split(1000)])
        self.explore(codes, torch.tensor(list(self.fitness.values())))
        self.autoencoder.train(training)
        unknown = [found for found in self._found.values() if not self.seen(found[1])]
        if not self.in_order:
            unknown.sort(key=lambda found: -found[0])
        return [architecture for _, architecture in unknown[:count]]

    @abstractmethod
    def explore(self, codes: Tensor, fitness: Tensor) -> None:
        """Search the code space, and ``record`` every architecture that is decoded on the way.

        Args:
            codes: Codes of the evaluated architectures, ``(n, code)``.
            fitness: Fitness of these architectures, ``(n,)``.
        """

    def record(self, choices: Tensor, scores: Tensor) -> Tensor:
        """Record decoded architectures with their scores.

        Args:
            choices: Decoded choices, int64 ``(n, positions)``.
            scores: Scores of their codes, ``(n,)``; the highest score of a network counts.

        Returns:
            The scores, ``-inf`` where the choices are not an architecture of the space.
        """
        valid = [self._record(tuple(c), score) for c, score in zip(choices.tolist(), scores.tolist(), strict=True)]
        return scores.masked_fill(~torch.tensor(valid), -torch.inf)

    def _record(self, choices: tuple[int, ...], score: float) -> bool:
        if choices not in self._places:
            try:
                architecture = self.space.architecture(choices)
            except ArchitectureError:
                self._places[choices] = None
            else:
                self._places[choices] = self.space.key(architecture)
                self._found.setdefault(self.space.key(architecture), (score, architecture))
        place = self._places[choices]
        if place is None:
            return False
        known, architecture = self._found[place]
        self._found[place] = max(known, score), architecture
        return True


class SwarmSearch(CodeSearch):
    """Moves a competitive swarm in the box around the codes of the evaluated architectures: TNAO's second stage.

    The particles start at the codes of random architectures. If they started uniformly in the box, nearly all of them
    would decode to a few architectures. No architecture is evaluated while the swarm moves: ``remapping`` scores the
    particles.

    References:
        1. He, Hou, Dong, Feng: Two-stage Neural Architecture Optimization with Separated Training and Search, IJCNN
           2023, https://doi.org/10.1109/IJCNN54540.2023.10191955

    Args:
        swarm: The swarm; by default 100 particles for 50 generations.
        remapping: Scores codes that are not the code of an architecture; by default ``Reencoding``.
        uniform: Whether the particles start uniformly in the box instead.

    Example:
        ```yaml
        strategy: {class_path: SwarmSearch, init_args: {swarm: {class_path: CompetitiveSwarm, init_args: {phi: 0.1}}}}
        ```
    """

    def __init__(
        self, swarm: CompetitiveSwarm | None = None, *, remapping: Remapping | None = None, uniform: bool = False
    ) -> None:
        self.swarm = swarm or CompetitiveSwarm()
        self.remapping = remapping or Reencoding()
        self.uniform = uniform

    def explore(self, codes: Tensor, fitness: Tensor) -> None:
        """Move the swarm; see ``CodeSearch.explore``."""
        autoencoder = self.autoencoder
        assert autoencoder is not None

        def score(particles: Tensor) -> Tensor:
            with torch.no_grad():
                return self.record(*self.remapping.remap(autoencoder, particles))

        start = None
        if not self.uniform:
            drawn = [self.space.sample(self.generator).choices for _ in range(self.swarm.particles)]
            with torch.no_grad():
                start = autoencoder.encode(torch.tensor(drawn))
        self.swarm.run(score, codes.min(0).values, codes.max(0).values, self.generator, start)


class GradientAscent(CodeSearch):
    """Moves the codes of the best known architectures along the gradient of the score, by steps of several sizes: NAO.

    ``e' = e + k * step * (ds/de) / |ds/de|`` for ``k`` from 1 to ``steps``, with the code ``e`` and the score ``s``. As
    in the published code, the architectures of the smallest step are proposed first, those from the best known ones
    before others, and larger steps follow only while the budget lasts. Departures from the paper:

    - The paper trains an LSTM; here the auto-encoder is that of TNAO, so that the two differ in their search alone.
    - The paper goes through two or three rounds, and trains the LSTM anew with the new evaluations of each. Here the
      auto-encoder is trained once, and there is one round.

    References:
        1. Luo, Tian, Qin, Chen, Liu: Neural Architecture Optimization, NeurIPS 2018, https://arxiv.org/abs/1808.07233

    Args:
        best: Number of best known architectures to start from, at least 1.
        step: Length of the smallest step, greater than 0.
        steps: Number of step sizes, at least 1.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: GradientAscent, init_args: {best: 100, step: 0.2}}
        ```
    """

    in_order = True

    def __init__(self, best: int = 100, *, step: float = 0.2, steps: int = 30) -> None:
        at_least(1, best=best, steps=steps)
        greater_than(0, step=step)
        self.best_count = best
        self.step = step
        self.steps = steps

    def explore(self, codes: Tensor, fitness: Tensor) -> None:
        """Move along the gradient; see ``CodeSearch.explore``."""
        autoencoder = self.autoencoder
        assert autoencoder is not None
        start = codes[fitness.argsort(descending=True)[: self.best_count]].requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(autoencoder.scores(start).sum(), start)
        direction = slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-12)
        with torch.no_grad():
            for size in range(1, self.steps + 1):
                moved = start + size * self.step * direction
                self.record(autoencoder.decode(moved).argmax(2), autoencoder.scores(moved))
