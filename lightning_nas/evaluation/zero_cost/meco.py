"""MeCo: the smallest eigenvalue of the correlation between channels."""

import torch

from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore


class MeCo(ZeroCostScore):
    """How independent the channels of every layer are for one image.

    For the output of every convolution on the first image, ``P`` is Pearson's correlation between its channels over the
    pixels; the score is the sum of the smallest eigenvalues of ``P`` over layers. A layer with at least as many
    channels as pixels adds nothing, since its ``P`` is singular. It needs no labels.

    Cost: one forward pass and an eigenvalue problem per layer.

    References:
        1. Jiang, Wang, Bie: MeCo: Zero-Shot NAS with One Data and Single Forward Pass via Minimum Eigenvalue of
           Correlation, NeurIPS 2023, https://openreview.net/forum?id=KFm2lZiI7n

    Example:
        ```yaml
        scores: [MeCo]
        ```
    """

    name = "meco"

    def score(self, probe: Probe) -> float:
        """Sum over the layers whose outputs are maps."""
        total = 0.0
        for output in probe.activations.maps:
            if output.dim() != 4 or output.shape[1] < 2:
                continue
            channels = output[0].flatten(1).double()
            channels = channels - channels.mean(1, keepdim=True)
            norms = channels.norm(dim=1, keepdim=True)
            # a channel that is constant correlates with nothing
            channels = channels / torch.where(norms > 0, norms, torch.ones_like(norms))
            total += float(torch.linalg.eigvalsh(channels @ channels.t())[0])
        return total
