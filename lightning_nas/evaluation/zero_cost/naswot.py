"""Scores that compare which units are active for which images."""

import math

import torch

from lightning_nas.checks import greater_than
from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore


class NASWOT(ZeroCostScore):
    """How differently a network's rectified units respond to different images.

    With ``c_i`` the binary code of image ``i`` over all units of all ReLU layers, the kernel ``K_ij`` is the number of
    units in which ``c_i`` and ``c_j`` agree, and the score is ``log |det K|``. It needs no labels.

    Cost: one forward pass.

    References:
        1. Mellor, Turner, Storkey, Crowley: Neural Architecture Search without Training, ICML 2021,
           https://arxiv.org/abs/2006.04647

    Example:
        ```yaml
        scores: [NASWOT]
        ```
    """

    name = "naswot"

    def score(self, probe: Probe) -> float:
        """Log determinant of the agreement of all pairs of images."""
        batch = len(probe.images)
        kernel = torch.zeros(batch, batch, dtype=torch.float64)
        for active in probe.activations.active:
            code = active.float()
            kernel += (code @ code.t() + (1 - code) @ (1 - code).t()).double().cpu()
        return float(torch.linalg.slogdet(kernel).logabsdet)


class SWAP(ZeroCostScore):
    """The number of distinct patterns that the units of a network show over a batch of images.

    Every unit of every ReLU layer has a pattern of as many bits as there are images; the score counts the patterns that
    differ. With ``center`` and ``width`` it is regularised towards a size: multiplied by
    ``exp(-(parameters - center)^2 / width)``.

    Cost: one forward pass.

    References:
        1. Peng, Song, Fayek, Ciesielski, Chang: SWAP-NAS: Sample-Wise Activation Patterns for Ultra-Fast NAS,
           ICLR 2024, https://arxiv.org/abs/2403.04161

    Args:
        center: Number of parameters that the regularisation favours; none by default.
        width: Width of the regularisation, in squared parameters, greater than 0.

    Raises:
        ConfigError: ``width`` is not greater than 0.

    Example:
        ```yaml
        scores: [SWAP]
        ```
    """

    name = "swap"

    def __init__(self, center: float | None = None, width: float = 1.0) -> None:
        greater_than(0, width=width)
        self.center = center
        self.width = width

    def score(self, probe: Probe) -> float:
        """Count the distinct patterns."""
        patterns = torch.cat([active.t() for active in probe.activations.active])
        words = []
        for bits in patterns.split(32, dim=1):
            places = 2 ** torch.arange(bits.shape[1], device=bits.device)
            words.append((bits.long() * places).sum(1))
        distinct = float(len(torch.unique(torch.stack(words, dim=1), dim=0)))
        if self.center is None:
            return distinct
        size = sum(p.numel() for p in probe.network.parameters())
        return distinct * math.exp(-((size - self.center) ** 2) / self.width)
