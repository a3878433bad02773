"""Scores from the gradient of the loss at initialisation."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.checks import at_least
from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore


def weight_gradients(probe: Probe, create_graph: bool = False) -> list[Tensor]:
    """Gradients of the loss with respect to the weights of convolutions and linear layers; zeros where none arrive."""
    with torch.enable_grad():
        found = torch.autograd.grad(probe.loss(), probe.weights, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(probe.weights, found, strict=True)]


class GradientNorm(ZeroCostScore):
    """The Euclidean norm of the loss's gradient, summed over layers: ``sum_l ||dL/dw_l||``.

    It misleads among strong architectures: deeper ones start with smaller gradients. Cost: one forward and one backward
    pass.

    References:
        1. Abdelfattah, Mehrotra, Dudziak, Lane: Zero-Cost Proxies for Lightweight NAS, ICLR 2021,
           https://arxiv.org/abs/2101.08134

    Example:
        ```yaml
        scores: [GradientNorm]
        ```
    """

    name = "gradient_norm"

    def score(self, probe: Probe) -> float:
        """Sum the norms over layers."""
        return float(torch.stack([g.norm() for g in weight_gradients(probe)]).sum())


class SNIP(ZeroCostScore):
    """How much the loss depends on the single weights: ``sum |w * dL/dw|``.

    Cost: one forward and one backward pass.

    References:
        1. Lee, Ajanthan, Torr: SNIP: Single-Shot Network Pruning based on Connection Sensitivity, ICLR 2019,
           https://arxiv.org/abs/1810.02340
        2. Abdelfattah, Mehrotra, Dudziak, Lane: Zero-Cost Proxies for Lightweight NAS, ICLR 2021,
           https://arxiv.org/abs/2101.08134

    Example:
        ```yaml
        scores: [SNIP]
        ```
    """

    name = "snip"

    def score(self, probe: Probe) -> float:
        """Sum over all weights."""
        pairs = zip(probe.weights, weight_gradients(probe), strict=True)
        return float(torch.stack([(w.detach() * g).abs().sum() for w, g in pairs]).sum())


class GraSP(ZeroCostScore):
    """How much the gradient's norm depends on the single weights: ``-sum w * (H g)``, with ``H`` the loss's Hessian.

    Cost: one forward pass and two backward passes.

    References:
        1. Wang, Zhang, Grosse: Picking Winning Tickets Before Training by Preserving Gradient Flow, ICLR 2020,
           https://arxiv.org/abs/2002.07376
        2. Abdelfattah, Mehrotra, Dudziak, Lane: Zero-Cost Proxies for Lightweight NAS, ICLR 2021,
           https://arxiv.org/abs/2101.08134

    Example:
        ```yaml
        scores: [GraSP]
        ```
    """

    name = "grasp"

    def score(self, probe: Probe) -> float:
        """Sum over all weights."""
        gradients = weight_gradients(probe, create_graph=True)
        half_square = torch.stack([0.5 * (g * g).sum() for g in gradients]).sum()
        if not half_square.requires_grad:
            return 0.0
        products = torch.autograd.grad(half_square, probe.weights, allow_unused=True)
        pairs = zip(probe.weights, products, strict=True)
        return -sum(float((w.detach() * p).sum()) for w, p in pairs if p is not None)


class Fisher(ZeroCostScore):
    """How much the loss depends on whole channels.

    For a channel of a convolution's output, ``e`` is the sum over pixels of activation times its gradient; the score is
    half the mean of ``e^2`` over the images, summed over channels and layers. Cost: one forward and one backward pass.

    References:
        1. Turner, Crowley, O'Boyle, Storkey, Gray: BlockSwap: Fisher-guided Block Substitution for Network Compression
           on a Budget, ICLR 2020, https://arxiv.org/abs/1906.04113
        2. Abdelfattah, Mehrotra, Dudziak, Lane: Zero-Cost Proxies for Lightweight NAS, ICLR 2021,
           https://arxiv.org/abs/2101.08134

    Example:
        ```yaml
        scores: [Fisher]
        ```
    """

    name = "fisher"

    def score(self, probe: Probe) -> float:
        """Sum over channels and layers."""
        outputs: list[Tensor] = []

        def look(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            outputs.append(output)
            return output.clone()  # a ReLU behind it may work in place

        handles = [layer.register_forward_hook(look) for layer in probe.layers if isinstance(layer, nn.Conv2d)]
        try:
            with torch.enable_grad():
                gradients = torch.autograd.grad(probe.loss(), outputs, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        total = 0.0
        for output, gradient in zip(outputs, gradients, strict=True):
            if gradient is not None:
                channels = (output.detach() * gradient).sum((2, 3))
                total += float(0.5 * channels.square().mean(0).sum())
        return total


class ZiCo(ZeroCostScore):
    """Whether the gradients of every weight are large and agree between batches.

    With ``g`` the gradient of a weight on each of several batches, a layer scores ``log sum_w mean |g| / std g``; the
    score is the sum over layers. A weight whose gradient does not vary is left out, as in the published code.

    Cost: one forward and one backward pass of every batch.

    References:
        1. Li, Yang, Bhardwaj, Marculescu: ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients,
           ICLR 2023, https://arxiv.org/abs/2301.11300

    Args:
        batches: Parts that the images are divided into, at least 2, the smallest number with a deviation.

    Raises:
        ConfigError: ``batches`` is below 2.

    Example:
        ```yaml
        scores: [{class_path: ZiCo, init_args: {batches: 4}}]
        ```
    """

    name = "zico"

    def __init__(self, batches: int = 4) -> None:
        at_least(2, batches=batches)
        self.batches = batches

    def score(self, probe: Probe) -> float:
        """Sum the logarithms over layers; layers without a gradient are left out."""
        gradients = []
        for images, labels in zip(
            probe.images.tensor_split(self.batches), probe.labels.tensor_split(self.batches), strict=True
        ):
            with torch.enable_grad():
                loss = F.cross_entropy(probe.logits(images), labels)
                gradients.append(torch.autograd.grad(loss, probe.weights, allow_unused=True))
        total = 0.0
        for parts in zip(*gradients, strict=True):
            if parts[0] is None:
                continue
            stacked = torch.stack(parts)
            deviation = stacked.std(0, correction=0)
            varying = deviation > 0
            ratio = float((stacked.abs().mean(0)[varying] / deviation[varying]).sum())
            total += math.log(ratio) if ratio > 0 else 0.0
        return total
