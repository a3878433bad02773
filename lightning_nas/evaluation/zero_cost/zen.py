"""Zen-score: how much the features move with the image."""

import torch
from torch import Tensor, nn

from lightning_nas.checks import at_least, greater_than
from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore


class Zen(ZeroCostScore):
    """The expressivity of a network of Gaussian weights, by how far its features move with a Gaussian image.

    With images ``x`` and ``e`` of standard normal noise and ``f`` the features before the classifier, the score is
    ``log E ||f(x + a e) - f(x)||``, plus ``log`` of the mean standard deviation that every batch norm divides by, which
    would otherwise hide the scale. It uses neither the images nor the labels of the probe.

    Departure: the norm is taken over the input of the last linear layer, where the paper takes the last feature map.

    Cost: two forward passes for every repetition, with weights drawn anew.

    References:
        1. Lin, Wang, Sun, Chen, Sun, Qian, Li, Jin: Zen-NAS: A Zero-Shot NAS for High-Performance Deep Image
           Recognition, ICCV 2021, https://arxiv.org/abs/2102.01063

    Args:
        mixup: ``a``, the size of the step, greater than 0 (the paper: 0.01).
        repeats: Draws that are averaged, at least 1 (the paper: 32).

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        ```yaml
        scores: [{class_path: Zen, init_args: {repeats: 4}}]
        ```
    """

    name = "zen"

    def __init__(self, mixup: float = 0.01, repeats: int = 4) -> None:
        greater_than(0, mixup=mixup)
        at_least(1, repeats=repeats)
        self.mixup = mixup
        self.repeats = repeats

    @torch.no_grad()
    def score(self, probe: Probe) -> float:
        """Average over the repetitions."""
        kept = [p.clone() for p in probe.network.parameters()]
        generator = probe.generator()
        try:
            found = [self._once(probe, generator) for _ in range(self.repeats)]
        finally:
            for parameter, value in zip(probe.network.parameters(), kept, strict=True):
                parameter.copy_(value)
        return sum(found) / len(found)

    def _once(self, probe: Probe, generator: torch.Generator) -> float:
        for weight in probe.weights:
            weight.copy_(torch.randn(weight.shape, generator=generator))
        x, e = (torch.randn(probe.images.shape, generator=generator).to(probe.images) for _ in range(2))
        features, scale = self._features(probe, x)
        moved, _ = self._features(probe, x + self.mixup * e)
        distance = (moved - features).double().norm(dim=1).mean()
        return float(distance.log()) + scale

    @staticmethod
    def _features(probe: Probe, images: Tensor) -> tuple[Tensor, float]:
        """Inputs of the last linear layer, and the logarithms of what the batch norms divide by."""
        seen: list[Tensor] = []
        scales: list[float] = []

        def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            variance = inputs[0].double().var((0, 2, 3), correction=0).mean()
            scales.append(0.5 * float((variance + 1e-12).log()))

        last = [layer for layer in probe.layers if isinstance(layer, nn.Linear)][-1]
        norms = [m for m in probe.network.modules() if isinstance(m, nn.BatchNorm2d)]
        handles = [m.register_forward_pre_hook(measure) for m in norms]
        handles.append(last.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0])))
        try:
            probe.logits(images)
        finally:
            for handle in handles:
                handle.remove()
        return seen[-1].flatten(1), sum(scales)
