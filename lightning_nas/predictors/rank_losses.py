"""Losses that make scores follow ranks."""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor

from lightning_nas.errors import ConfigError


class RankLoss(ABC):
    """A loss of scores, given what they should rank."""

    @abstractmethod
    def loss(self, scores: Tensor, truth: Tensor) -> Tensor:
        """The loss, a scalar; 0 where there is nothing to rank.

        Args:
            scores: ``(n,)``.
            truth: ``(n,)``; higher is better.
        """


def _pairs(scores: Tensor, truth: Tensor, apart: float) -> Tensor:
    """Differences of scores, better less worse, of the pairs whose truths are ``apart`` standard deviations apart."""
    difference = truth.unsqueeze(1) - truth.unsqueeze(0)
    wanted = difference > apart * truth.std(correction=0)
    return (scores.unsqueeze(1) - scores.unsqueeze(0))[wanted]


class PairwiseHinge(RankLoss):
    """``max(0, margin - (s_i - s_j))``, averaged over the pairs of which i is better.

    Args:
        margin: By how much the better one's score should be higher, above 0.
        apart: Standard deviations that the truths of a pair must be apart to count.
    """

    def __init__(self, margin: float = 1.0, apart: float = 0.0) -> None:
        if margin <= 0 or apart < 0:
            raise ConfigError(f"margin is {margin} and apart {apart}; they must be above 0, and at least 0.")
        self.margin = margin
        self.apart = apart

    def loss(self, scores: Tensor, truth: Tensor) -> Tensor:
        """See ``RankLoss.loss``."""
        pairs = _pairs(scores, truth, self.apart)
        return F.relu(self.margin - pairs).mean() if len(pairs) else scores.sum() * 0


class PairwiseLogistic(RankLoss):
    """``log(1 + exp(-(s_i - s_j)))``, averaged over the pairs of which i is better.

    References:
        1. Burges et al.: Learning to Rank using Gradient Descent, ICML 2005

    Args:
        apart: Standard deviations that the truths of a pair must be apart to count.
    """

    def __init__(self, apart: float = 0.0) -> None:
        if apart < 0:
            raise ConfigError(f"apart is {apart}; it must be at least 0.")
        self.apart = apart

    def loss(self, scores: Tensor, truth: Tensor) -> Tensor:
        """See ``RankLoss.loss``."""
        pairs = _pairs(scores, truth, self.apart)
        return F.softplus(-pairs).mean() if len(pairs) else scores.sum() * 0


class RankRegression(RankLoss):
    """Squared error of the scores against the ranks within the batch, from -1 to 1; equals share theirs."""

    def loss(self, scores: Tensor, truth: Tensor) -> Tensor:
        """See ``RankLoss.loss``."""
        if len(truth) < 2:
            return scores.sum() * 0
        below = (truth.unsqueeze(1) > truth.unsqueeze(0)).sum(1) + (truth.unsqueeze(1) >= truth.unsqueeze(0)).sum(1) - 1
        ranks = below.to(scores.dtype) / (len(truth) - 1) - 1
        return F.mse_loss(scores, ranks)
