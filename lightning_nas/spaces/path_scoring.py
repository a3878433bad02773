"""Interface of supernets that compute several of their architectures together."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any

from torch import Tensor

Logits = Generator[tuple[int, int, Tensor], None, None]
"""Yields the index of a path, the index of a batch, and the logits of the path for the batch."""


class BatchedPathScoring(ABC):
    """Interface of a supernet that computes the logits of several architectures, sharing what they have in common.

    The batch-norm statistics are measured for every architecture on its own, as
    ``lightning_nas.supernets.scoring.calibrated`` does: means and unbiased variances of one batch, which passes the
    network normalized by its own statistics. The running statistics and the mode of the supernet are neither read nor
    changed.
    """

    @abstractmethod
    def supports(self, path: Any) -> bool:
        """Return whether ``path_logits`` can compute a path.

        Args:
            path: Second argument of the supernet's forward pass.
        """

    @abstractmethod
    def path_logits(self, paths: Sequence[Any], calibration: Tensor, batches: Sequence[Tensor]) -> Logits:
        """Compute the logits of every path for every batch, without gradients.

        Args:
            paths: Paths that are all supported.
            calibration: Images on which the statistics are measured, ``(batch, channels, height, width)``.
            batches: Batches of images to score.

        Yields:
            Path index, batch index and logits ``(batch, classes)``; every pair of indices once, in any order.
        """
