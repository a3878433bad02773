"""The random perturbation of SmoothDARTS."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_nas.checks import within
from lightning_nas.differentiable.perturbation.base import Perturbation, Shares


def uniform_noise(like: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Uniform noise in ``[-radius, radius]``, the same whatever device it is for.

    Args:
        like: A tensor with the shape, the device and the type of the noise.
        radius: Largest size.
        generator: Source of the noise, on the CPU.
    """
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    return radius * (2 * drawn - 1).to(like, non_blocking=True)


class RandomSmoothing(Perturbation):
    """Adds uniform noise to the shares of the operations in every step of the weights.

    This is SDARTS-RS of SmoothDARTS. The noise is in ``[-radius, radius]``, and the result is clipped to [0, 1] and
    divided by its sum. The radius rises linearly from ``start`` in the first step of the search to ``end`` in the last
    one. It costs nothing.

    References:
        1. Chen, Hsieh: Stabilizing Differentiable Architecture Search via Perturbation-based Regularization, ICML 2020,
           https://arxiv.org/abs/2002.05283

    Args:
        start: Radius in the first step, in [0, 1] (the authors' code: 0.03).
        end: Radius in the last step, in [0, 1] (the authors' code: 0.3).

    Raises:
        ConfigError: A radius is not in [0, 1].

    Example:
        ```yaml
        perturbation: {class_path: RandomSmoothing, init_args: {start: 0.03, end: 0.3}}
        ```
    """

    def __init__(self, start: float = 0.03, *, end: float = 0.3) -> None:
        within("[0, 1]", start=start, end=end)
        self.start = start
        self.end = end

    def radius(self, progress: float) -> float:
        """Largest size of the noise.

        Args:
            progress: Fraction of the search that is over: 0 in its first step, 1 in its last.
        """
        return self.start + (self.end - self.start) * progress

    def moved(
        self,
        shares: Shares,
        project: Callable[[Shares], Shares],
        gradient: Callable[[Shares], Shares],
        progress: float,
        generator: torch.Generator,
    ) -> Shares:
        """Add noise; see ``Perturbation.moved``."""
        radius = self.radius(progress)
        return project({name: s + uniform_noise(s, radius, generator) for name, s in shares.items()})
