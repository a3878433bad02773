"""The adversarial perturbation of SmoothDARTS."""

from collections.abc import Callable

import torch

from lightning_nas.checks import integer_at_least
from lightning_nas.differentiable.perturbation.base import Shares
from lightning_nas.differentiable.perturbation.random_smoothing import RandomSmoothing


class AdversarialPerturbation(RandomSmoothing):
    """Moves the shares of the operations to where the loss of the batch is large, in every step of the weights.

    This is SDARTS-ADV of SmoothDARTS. It starts from ``RandomSmoothing`` and takes ``steps`` steps of size ``2 * radius
    / steps`` along the signs of the gradient (projected gradient ascent). After every step the shares are at most
    ``radius`` away from the unmoved ones, and are then clipped to [0, 1] and divided by their sum. As in the authors'
    code, the ascent uses the running batch-norm statistics. A step of the weights costs ``steps`` more forward and
    backward passes.

    References:
        1. Chen, Hsieh: Stabilizing Differentiable Architecture Search via Perturbation-based Regularization, ICML 2020,
           https://arxiv.org/abs/2002.05283

    Args:
        start: Radius in the first step of the search, in [0, 1] (the authors' code: 0.03).
        end: Radius in the last step of the search, in [0, 1] (the authors' code: 0.3).
        steps: Number of steps of the ascent, at least 1 (the authors' code: 7).

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        perturbation: {class_path: AdversarialPerturbation, init_args: {start: 0.03, end: 0.3, steps: 7}}
        ```
    """

    def __init__(self, start: float = 0.03, *, end: float = 0.3, steps: int = 7) -> None:
        super().__init__(start, end=end)
        integer_at_least(1, steps=steps)
        self.steps = steps

    def moved(
        self,
        shares: Shares,
        project: Callable[[Shares], Shares],
        gradient: Callable[[Shares], Shares],
        progress: float,
        generator: torch.Generator,
    ) -> Shares:
        """Add noise, then climb; see ``Perturbation.moved``."""
        radius = self.radius(progress)
        found = super().moved(shares, project, gradient, progress, generator)
        for _ in range(self.steps):
            slopes = gradient(found)
            stepped = {name: found[name] + 2 * radius / self.steps * slopes[name].sign() for name in shares}
            found = project({name: s + (stepped[name] - s).clamp(-radius, radius) for name, s in shares.items()})
        return found
