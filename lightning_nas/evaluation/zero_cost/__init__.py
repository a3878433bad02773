"""Zero-cost scores: evaluators that look at untrained networks."""

from lightning_nas.evaluation.zero_cost.synflow import SynFlow

__all__ = [
    "SynFlow",
]
