"""Synaptic flow: what an untrained network lets through, without data."""

import torch
from torch import nn

from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore


class SynFlow(ZeroCostScore):
    """How much the weights of a network let through: the logarithm of its synaptic flow.

    With all weights replaced by their magnitudes and an image of ones, ``R`` is the sum of the logits; the score is
    ``log sum_w w * dR/dw`` over the weights of convolutions and linear layers. Batch norms pass on what they get;
    otherwise the flow would be the same through every layer. It is computed in float64, because it grows with the
    product of all layers. It uses neither the images nor the labels.

    Cost: one forward and one backward pass of one image.

    References:
        1. Tanaka, Kunin, Yamins, Ganguli: Pruning neural networks without any data by iteratively conserving synaptic
           flow, NeurIPS 2020, https://arxiv.org/abs/2006.05467
        2. Abdelfattah, Mehrotra, Dudziak, Lane: Zero-Cost Proxies for Lightweight NAS, ICLR 2021,
           https://arxiv.org/abs/2101.08134

    Example:
        ```yaml
        order:
          class_path: ZeroCost
          init_args: {scores: [SynFlow]}
        ```
    """

    name = "synflow"

    def score(self, probe: Probe) -> float:
        """The logarithm of the flow, ``-inf`` where nothing passes."""
        network = probe.network.eval()
        values = {name: p.detach().double().abs().requires_grad_() for name, p in network.named_parameters()}
        for name, module in network.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                zeros = torch.zeros(module.num_features, dtype=torch.float64)
                values |= {f"{name}.running_mean": zeros, f"{name}.running_var": zeros + 1}
        layers = set(probe.layers)
        weights = [values[f"{name}.weight"] for name, module in network.named_modules() if module in layers]
        try:
            with torch.enable_grad():
                image = torch.ones_like(probe.images[:1], dtype=torch.float64)
                flow = torch.func.functional_call(network, values, (image,)).sum()
                gradients = torch.autograd.grad(flow, weights, allow_unused=True)
        finally:
            network.train()
        flows = [(w * g).sum().detach() for w, g in zip(weights, gradients, strict=True) if g is not None]
        return float(torch.stack(flows).sum().log()) if flows else -float("inf")
