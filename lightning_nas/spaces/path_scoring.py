"""What a supernet is that computes several of its architectures together."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any

from torch import Tensor

Logits = Generator[tuple[int, int, Tensor], None, None]
"""Index of a path, index of a batch, and the path's logits for it."""


class BatchedPathScoring(ABC):
    """Of a supernet: computes the logits of several architectures, and what they have in common only once.

    The batch-norm statistics are every architecture's own, as ``lightning_nas.evaluation.supernet.calibrated`` measures
    them: means and unbiased variances of one batch, which went through normalised by its own statistics. Running
    statistics and the mode of the supernet are neither read nor changed.
    """

    @abstractmethod
    def supports(self, path: Any) -> bool:
        """Whether a path is an architecture that ``path_logits`` knows to compute.

        Args:
            path: The second argument of the supernet's forward pass.
        """

    @abstractmethod
    def path_logits(self, paths: Sequence[Any], calibration: Tensor, batches: Sequence[Tensor]) -> Logits:
        """Compute the logits of every path for every batch; nothing can be differentiated.

        Args:
            paths: For all of which ``supports`` is true.
            calibration: Images that the statistics are measured on.
            batches: Images.

        Yields:
            What ``Logits`` says; every pair of a path and a batch once, in any order.
        """
