"""Statistics of the benchmarks, on known cases."""

import numpy as np
import pytest

from benchmarks.rank_gains import cluster_correlations, gain_interval
from lightning_nas.errors import DataError
from lightning_nas.metrics.ranking import kendall_tau


def test_a_gain_is_told_from_none() -> None:
    generator = np.random.default_rng(1)
    truth = np.arange(100.0)
    worse = [(truth + generator.normal(scale=100, size=100)).tolist() for _ in range(3)]
    better = [(truth + generator.normal(scale=20, size=100)).tolist() for _ in range(3)]
    gain = gain_interval(worse, better, truth.tolist(), kendall_tau, samples=200)
    assert 0.1 < gain[0] < gain[1] < 1
    none = gain_interval(worse, worse, truth.tolist(), kendall_tau, samples=20)
    assert none == (0, 0)
    alike = [(truth + generator.normal(scale=100, size=100)).tolist() for _ in range(3)]
    low, high = gain_interval(worse, alike, truth.tolist(), kendall_tau, samples=200)
    assert low < 0 < high
    for before, after in ((worse, better[:2]), ([], [])):
        with pytest.raises(DataError, match="equally many are needed"):
            gain_interval(before, after, truth.tolist(), kendall_tau)


def test_correlations_within_clusters_and_of_all() -> None:
    """Within a cluster early and final results agree; between clusters they are the other way round."""
    place, groups = np.tile(np.arange(6.0), 3), np.repeat(np.arange(3.0), 6)
    features = groups[:, None] * 100 + place[:, None]
    early, final = place + 10 * groups, place - 10 * groups
    overall, within = cluster_correlations(features, early.tolist(), final.tolist(), 3)
    agreeing, pairs = 3 * 15, 18 * 17 / 2
    assert overall == pytest.approx((2 * agreeing - pairs) / pairs)
    assert within == pytest.approx(1.0)
    # a cluster of one or of equals has no order
    final[:12] = 0.0
    _, rest = cluster_correlations(features, early.tolist(), final.tolist(), 3)
    assert rest == pytest.approx(1.0)
    assert np.isnan(cluster_correlations(features, early.tolist(), final.tolist(), 18)[1])
    with pytest.raises(DataError, match="of 18 architectures and results of 17"):
        cluster_correlations(features, early[:17].tolist(), final[:17].tolist(), 3)
