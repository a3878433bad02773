"""Searches in the code space of an auto-encoder of architectures."""

from abc import abstractmethod

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.predictors.swarm import CompetitiveSwarm, Reencoding, Remapping
from lightning_nas.strategies.base import Strategy


class CodeSearch(Strategy):
    """Looks for codes with high scores, and asks for the architectures that they are decoded to, best scores first.

    It needs an auto-encoder that was trained on architectures that it was told of, and asks for nothing without one.

    Attributes:
        autoencoder: What maps architectures to codes and back; set it after ``start``.
    """

    autoencoder: ArchitectureAutoEncoder | None = None

    def ask(self, count: int) -> list[Architecture]:
        """The best scored architectures that are not known; see ``Strategy.ask``.

        Raises:
            ConfigError: There is no auto-encoder, or nothing was told.
        """
        if self.autoencoder is None or not self.evaluated:
            raise ConfigError(
                f"{type(self).__name__} has {'no' if self.autoencoder is None else 'an'} auto-encoder and knows "
                f"{len(self.evaluated)} architectures. Train one on known architectures first, as "
                "configs/predict/tnao.yaml does."
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
        unknown = [found for key, found in self._found.items() if key not in self.evaluated]
        return [architecture for _, architecture in sorted(unknown, key=lambda found: -found[0])[:count]]

    @abstractmethod
    def explore(self, codes: Tensor, fitness: Tensor) -> None:
        """Look at codes; ``note`` keeps what is seen.

        Args:
            codes: Of the known architectures, ``(n, code)``.
            fitness: What these are worth, ``(n,)``.
        """

    def note(self, choices: Tensor, scores: Tensor) -> Tensor:
        """Keep decoded architectures with their scores.

        Args:
            choices: ``(n, positions)``.
            scores: ``(n,)``.

        Returns:
            The scores, ``-inf`` where the choices are no architecture of the space.
        """
        valid = [self._note(tuple(c), score) for c, score in zip(choices.tolist(), scores.tolist(), strict=True)]
        return scores.masked_fill(~torch.tensor(valid), -torch.inf)

    def _note(self, choices: tuple[int, ...], score: float) -> bool:
        if choices not in self._places:
            try:
                architecture = self.space.architecture(choices)
            except ArchitectureError:
                self._places[choices] = None
            else:
                key = self._places[choices] = self.space.key(architecture)
                self._found.setdefault(key, (score, architecture))
        return self._places[choices] is not None


class SwarmSearch(CodeSearch):
    """A competitive swarm in the box around the codes of the known architectures (TNAO's second stage).

    The particles start at the codes of random architectures: uniform in the box, nearly all of them would be decoded to
    a few architectures. No architecture is queried while the swarm moves: particles are scored by ``remapping``.

    References:
        1. He, Hou, Dong, Feng: Two-stage Neural Architecture Optimization with Separated Training and Search, IJCNN
           2023, https://doi.org/10.1109/IJCNN54540.2023.10191955

    Args:
        swarm: How the particles move; by default 100 of them for 50 generations.
        remapping: How codes that are no architecture's are scored; by default by the architecture they are decoded to.
        uniform: Whether the particles start uniformly in the box instead, as those of a swarm that knows no codes.
    """

    def __init__(
        self, swarm: CompetitiveSwarm | None = None, remapping: Remapping | None = None, uniform: bool = False
    ) -> None:
        self.swarm = swarm or CompetitiveSwarm()
        self.remapping = remapping or Reencoding()
        self.uniform = uniform

    def explore(self, codes: Tensor, fitness: Tensor) -> None:
        """Let the swarm move; see ``CodeSearch.explore``."""
        autoencoder = self.autoencoder
        assert autoencoder is not None

        def worth(particles: Tensor) -> Tensor:
            with torch.no_grad():
                return self.note(*self.remapping.remap(autoencoder, particles))

        start = None
        if not self.uniform:
            drawn = [self.space.sample(self.generator).choices for _ in range(self.swarm.particles)]
            with torch.no_grad():
                start = autoencoder.encode(torch.tensor(drawn))
        self.swarm.run(worth, codes.min(0).values, codes.max(0).values, self.generator, start)


class GradientAscent(CodeSearch):
    """Steps of several sizes along the gradient of the score, from the codes of the best known architectures (NAO).

    ``e' = e + eta ds/de / |ds/de|`` for ``eta`` from ``step`` to ``steps`` times ``step``. NAO trains an LSTM and
    decodes greedily; here the auto-encoder is TNAO's, so that only the search differs.

    References:
        1. Luo, Tian, Qin, Chen, Liu: Neural Architecture Optimization, NeurIPS 2018, https://arxiv.org/abs/1808.07233

    Args:
        best: Known architectures to start from, at least 1.
        step: Length of the smallest step, above 0.
        steps: How many sizes, at least 1.
    """

    def __init__(self, best: int = 100, step: float = 0.2, steps: int = 30) -> None:
        if best < 1 or steps < 1 or step <= 0:
            raise ConfigError(f"best is {best}, steps {steps} and step {step}; at least 1, at least 1 and above 0.")
        self.best_count = best
        self.step = step
        self.steps = steps

    def explore(self, codes: Tensor, fitness: Tensor) -> None:
        """Step up; see ``CodeSearch.explore``."""
        autoencoder = self.autoencoder
        assert autoencoder is not None
        start = codes[fitness.argsort(descending=True)[: self.best_count]].requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(autoencoder.scores(start).sum(), start)
        direction = slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-12)
        with torch.no_grad():
            for size in range(1, self.steps + 1):
                moved = start + size * self.step * direction
                self.note(autoencoder.decode(moved).argmax(2), autoencoder.scores(moved))
