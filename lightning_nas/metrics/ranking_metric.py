"""The ranking statistics as a metric that gathers over batches and processes."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_nas.metrics.ranking import ranking


class Ranking(Metric):
    """``lightning_nas.metrics.ranking.ranking`` of all scores and truths that it was updated with.

    Args:
        share: See ``ranking``.
        k: Likewise.
        samples: Likewise.
        seed: Likewise.
    """

    full_state_update = False
    scores: list[Tensor]
    truth: list[Tensor]

    def __init__(self, share: float = 0.1, k: int = 10, samples: int = 1000, seed: int = 0) -> None:
        super().__init__()
        self.options = {"share": share, "k": k, "samples": samples, "seed": seed}
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("truth", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, truth: Tensor) -> None:
        """Add architectures.

        Args:
            scores: ``(n,)``, higher is better.
            truth: Likewise, of the same architectures.
        """
        self.scores.append(scores.detach().double().flatten())
        self.truth.append(truth.detach().double().flatten())

    def compute(self) -> dict[str, Tensor]:
        """Statistics by name.

        Raises:
            ConfigError: An argument is out of its range.
            DataError: There are fewer than two architectures, or a number is not finite.
        """
        scores, truth = (dim_zero_cat(state).tolist() if len(state) else [] for state in (self.scores, self.truth))
        return {name: torch.tensor(value) for name, value in ranking(scores, truth, **self.options).items()}  # type: ignore[arg-type]
