"""Losses that train scores to rank architectures."""

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor

from lightning_nas.checks import at_least, greater_than


class RankLoss(ABC):
    """A loss of the scores of architectures, given the performance that the scores should rank them by.

    Example:
        ```python
        class Correlation(RankLoss):
            def loss(self, scores, performance):
                return 1 - torch.corrcoef(torch.stack([scores, performance]))[0, 1]
        ```
    """

    @abstractmethod
    def loss(self, scores: Tensor, performance: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            scores: Scores of the architectures, ``(n,)``.
            performance: Measured performance of the architectures, ``(n,)``; higher is better.

        Returns:
            The loss, a scalar; 0 where there is nothing to rank.
        """


class PairwiseHinge(RankLoss):
    """``max(0, margin - (s_i - s_j))``, averaged over the pairs in which architecture i is better than j.

    Args:
        margin: Difference of scores from which on a pair adds nothing to the loss, greater than 0.
        apart: Smallest difference in performance of a pair that counts, in standard deviations of the batch, at least
            0. A value above 0 ignores pairs whose order may be noise.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        rank_loss: {class_path: PairwiseHinge, init_args: {margin: 0.5}}
        ```
    """

    def __init__(self, margin: float = 1.0, apart: float = 0.0) -> None:
        greater_than(0, margin=margin)
        at_least(0, apart=apart)
        self.margin = margin
        self.apart = apart

    def loss(self, scores: Tensor, performance: Tensor) -> Tensor:
        """Compute the loss; see ``RankLoss.loss``."""
        pairs = _pairs(scores, performance, self.apart)
        return F.relu(self.margin - pairs).mean() if len(pairs) else scores.sum() * 0


class PairwiseLogistic(RankLoss):
    """``log(1 + exp(-(s_i - s_j)))``, averaged over the pairs in which architecture i is better than j.

    References:
        1. Burges et al.: Learning to Rank using Gradient Descent, ICML 2005

    Args:
        apart: Smallest difference in performance of a pair that counts, in standard deviations of the batch, at least
            0. A value above 0 ignores pairs whose order may be noise.

    Raises:
        ConfigError: ``apart`` is negative.

    Example:
        ```yaml
        rank_loss: {class_path: PairwiseLogistic, init_args: {apart: 0.1}}
        ```
    """

    def __init__(self, apart: float = 0.0) -> None:
        at_least(0, apart=apart)
        self.apart = apart

    def loss(self, scores: Tensor, performance: Tensor) -> Tensor:
        """Compute the loss; see ``RankLoss.loss``."""
        pairs = _pairs(scores, performance, self.apart)
        return F.softplus(-pairs).mean() if len(pairs) else scores.sum() * 0


class RankRegression(RankLoss):
    """Mean squared error between the scores and the ranks within the batch, scaled from -1 (worst) to 1 (best).

    Architectures of equal performance share their mean rank.

    Example:
        ```yaml
        rank_loss: RankRegression
        ```
    """

    def loss(self, scores: Tensor, performance: Tensor) -> Tensor:
        """Compute the loss; see ``RankLoss.loss``."""
        if len(performance) < 2:
            return scores.sum() * 0
        mine, others = performance.unsqueeze(1), performance.unsqueeze(0)
        below = (mine > others).sum(1) + (mine >= others).sum(1) - 1
        ranks = below.to(scores.dtype) / (len(performance) - 1) - 1
        return F.mse_loss(scores, ranks)


def _pairs(scores: Tensor, performance: Tensor, apart: float) -> Tensor:
    """Differences of scores, better minus worse, of the pairs that differ enough in performance."""
    difference = performance.unsqueeze(1) - performance.unsqueeze(0)
    wanted = difference > apart * performance.std(correction=0)
    return (scores.unsqueeze(1) - scores.unsqueeze(0))[wanted]
