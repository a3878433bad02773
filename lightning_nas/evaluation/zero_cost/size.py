"""The size of a network as a score."""

from lightning_nas.evaluation.zero_cost.base import Probe, ZeroCostScore
from lightning_nas.metrics.cost import macs, parameters


class Parameters(ZeroCostScore):
    """The number of parameters: the baseline that every other score has to beat.

    Cost: none.

    Example:
        ```yaml
        evaluator:
          class_path: ZeroCost
          init_args:
            scores: [Parameters]
        ```
    """

    name = "parameters"

    def score(self, probe: Probe) -> float:
        """Count the parameters; shared ones count once."""
        return float(parameters(probe.network))


class MultiplyAccumulates(ZeroCostScore):
    """The multiply-accumulates of one image; see ``lightning_nas.metrics.macs``.

    Cost: one forward pass of one image.

    Example:
        ```yaml
        scores: [MultiplyAccumulates]
        ```
    """

    name = "macs"

    def score(self, probe: Probe) -> float:
        """Count the multiply-accumulates."""
        return float(macs(probe.network, tuple(probe.images.shape[1:])))
