"""Zero-cost scores: what an untrained network says of its architecture."""

from lightning_nas.evaluation.zero_cost.synflow import SynFlow

__all__ = [
    "SynFlow",
]
