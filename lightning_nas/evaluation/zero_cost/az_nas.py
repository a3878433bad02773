"""The scores of AZ-NAS, which look at the features that one block hands to the next."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore


class Expressivity(ZeroCostScore):
    """How evenly the features of a network use their channels: the entropy of principal components, summed over blocks.

    See ``feature_entropy``. Cost: one forward pass and an eigenvalue problem per block.

    References:
        1. Lee, Ham: AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search, CVPR 2024,
           https://arxiv.org/abs/2403.19232

    Example:
        ```yaml
        scores: [Expressivity]
        ```
    """

    name = "expressivity"

    def score(self, probe: Probe) -> float:
        """Sum the entropies of all blocks."""
        return sum(probe.entropies)


class Progressivity(ZeroCostScore):
    """Whether every block adds something: the smallest increase of the features' entropy from one block to the next.

    See ``feature_entropy``. Cost: that of ``Expressivity``.

    References:
        1. Lee, Ham: AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search, CVPR 2024,
           https://arxiv.org/abs/2403.19232

    Example:
        ```yaml
        scores: [Progressivity]
        ```
    """

    name = "progressivity"

    def score(self, probe: Probe) -> float:
        """The smallest difference of neighbouring entropies; 0 for a network of one block."""
        pairs = zip(probe.entropies, probe.entropies[1:], strict=False)
        return min((after - before for before, after in pairs), default=0.0)


class Trainability(ZeroCostScore):
    """Whether gradients keep their size on the way back through every block.

    A vector of random signs is sent back from a block's output; ``s`` is the largest singular value of the mean outer
    product of the gradient that arrives at its input and of these signs, over all pixels of all images. A block scores
    ``2 - s - 1 / (s + 1e-6)``, which is largest at ``s = 1``; the score is the mean over blocks. Where a block halves
    height and width, the arriving gradient is averaged over pixels.

    Cost: one forward and one backward pass per block.

    References:
        1. Lee, Ham: AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search, CVPR 2024,
           https://arxiv.org/abs/2403.19232

    Example:
        ```yaml
        scores: [Trainability]
        ```
    """

    name = "trainability"

    def score(self, probe: Probe) -> float:
        """Mean over the blocks behind the first one."""
        generator = probe.generator()
        with torch.enable_grad():
            outputs = probe.block_outputs()
        found = []
        for before, after in zip(outputs, outputs[1:], strict=False):
            signs = torch.randint(0, 2, after.shape, generator=generator).to(after) * 2 - 1
            (arriving,) = torch.autograd.grad(after, before, signs, retain_graph=True, allow_unused=True)
            found.append(self._of_block(signs, torch.zeros_like(before) if arriving is None else arriving))
        return sum(found) / len(found) if found else 0.0

    @staticmethod
    def _of_block(sent: Tensor, arriving: Tensor) -> float:
        arriving = F.adaptive_avg_pool2d(arriving, (sent.shape[2], sent.shape[3]))
        pixels = sent.shape[0] * sent.shape[2] * sent.shape[3]
        rows = arriving.permute(1, 0, 2, 3).flatten(1)
        columns = sent.permute(1, 0, 2, 3).flatten(1)
        largest = float(torch.linalg.matrix_norm((rows @ columns.t()).double() / pixels, ord=2))
        return 2.0 - largest - 1.0 / (largest + 1e-6)
