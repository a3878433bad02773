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
        network = probe.network
        kept = {name: value.clone() for name, value in network.state_dict().items()}
        dtype = probe.images.dtype
        network.double().eval()
        try:
            for module in network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.reset_running_stats()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.abs_()
            with torch.enable_grad():
                flow = network(torch.ones_like(probe.images[:1], dtype=torch.float64)).sum()
                gradients = torch.autograd.grad(flow, probe.weights, allow_unused=True)
            flows = [(w * g).sum().detach() for w, g in zip(probe.weights, gradients, strict=True) if g is not None]
            return float(torch.stack(flows).sum().log()) if flows else -float("inf")
        finally:
            network.to(dtype).train()
            network.load_state_dict(kept)
