"""The rank statistics as a metric that accumulates over batches and processes."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_nas.metrics.ranking import ranking


class Ranking(Metric):
    """All rank statistics of scores against measured performance, with 95 % bootstrap intervals.

    The statistics are those of ``lightning_nas.metrics.ranking.ranking``, computed over the architectures of all
    batches and processes.

    Args:
        share: Fraction of the best architectures for ``local_kendall_tau``, in (0, 1].
        k: Number of architectures for ``top_k_overlap`` and ``best_rank``, at least 1; all where there are fewer.
        samples: Number of bootstrap resamples, at least 1.
        seed: Seed of the resamples.

    Example:
        ```python
        metric = Ranking(k=1)
        metric.update(torch.tensor([0.1, 0.4, 0.3]), torch.tensor([0.90, 0.94, 0.91]))
        metric.compute()["kendall_tau"]  # tensor(1.)
        ```
    """

    full_state_update = False
    scores: list[Tensor]
    target: list[Tensor]

    def __init__(self, share: float = 0.1, *, k: int = 10, samples: int = 1000, seed: int = 0) -> None:
        super().__init__()
        self.options = {"share": share, "k": k, "samples": samples, "seed": seed}
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Add architectures.

        Args:
            scores: Predicted scores, ``(n,)``; higher is better.
            target: Measured performance of the same architectures, ``(n,)``; higher is better.
        """
        self.scores.append(scores.detach().double().flatten())
        self.target.append(target.detach().double().flatten())

    def compute(self) -> dict[str, Tensor]:
        """The statistics by name; see ``lightning_nas.metrics.ranking.ranking``.

        Raises:
            ConfigError: An argument is out of its range.
            DataError: There are fewer than two architectures, or a value is not finite.
        """
        scores, target = (dim_zero_cat(state).tolist() if len(state) else [] for state in (self.scores, self.target))
        return {name: torch.tensor(value) for name, value in ranking(scores, target, **self.options).items()}  # type: ignore[arg-type]  # options are of several types
