"""Metrics: rank statistics, selection errors, sharpness of minima, and costs of networks."""

from lightning_nas.metrics.cost import CostSource, activation_memory, latency, macs, parameters
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.metrics.race import RaceResult, race
from lightning_nas.metrics.ranking import (
    best_rank,
    bootstrap_interval,
    kendall_tau,
    regret,
    spearman,
    top_k_overlap,
    weighted_tau,
)
from lightning_nas.metrics.ranking_metric import Ranking
from lightning_nas.metrics.selection import SelectionErrors, selection_errors
from lightning_nas.metrics.sharpness import largest_eigenvalue, loss_rise, smallest_eigenvalue

__all__ = [
    "CostSource",
    "NetworkCosts",
    "RaceResult",
    "Ranking",
    "SelectionErrors",
    "activation_memory",
    "best_rank",
    "bootstrap_interval",
    "kendall_tau",
    "largest_eigenvalue",
    "smallest_eigenvalue",
    "latency",
    "loss_rise",
    "macs",
    "parameters",
    "race",
    "regret",
    "selection_errors",
    "spearman",
    "top_k_overlap",
    "weighted_tau",
]
