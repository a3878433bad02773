"""Statistics of rankings beside tau, against their definitions and known cases."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from lightning_nas.errors import ConfigError, DataError
from lightning_nas.metrics.ranking import (
    best_rank,
    gain_interval,
    kendall_tau,
    local,
    ranking,
    regret,
    spearman,
    top_k_overlap,
    weighted_tau,
)
from lightning_nas.metrics.ranking_metric import Ranking

GENERATOR = np.random.default_rng(0)
TRUTH = GENERATOR.normal(size=60).tolist()
SCORES = (np.array(TRUTH) + GENERATOR.normal(size=60)).tolist()


def test_weighted_tau_is_that_of_the_definition() -> None:
    ranks = {value: rank for rank, value in enumerate(sorted(TRUTH, reverse=True))}
    total = agreed = 0.0
    for i, j in combinations(range(60), 2):
        weight = 1 / (1 + ranks[TRUTH[i]]) + 1 / (1 + ranks[TRUTH[j]])
        total += weight
        agreed += weight * math.copysign(1, (TRUTH[i] - TRUTH[j]) * (SCORES[i] - SCORES[j]))
    assert weighted_tau(SCORES, TRUTH) == pytest.approx(agreed / total)


def test_errors_at_the_top_weigh_more() -> None:
    truth = list(range(10))
    top, bottom = [*range(8), 9, 8], [1, 0, *range(2, 10)]
    assert kendall_tau(top, truth) == pytest.approx(kendall_tau(bottom, truth))
    assert weighted_tau(top, truth) < weighted_tau(bottom, truth) < 1


def test_spearman_is_the_correlation_of_ranks() -> None:
    first, second = (np.argsort(np.argsort(values)) for values in (SCORES, TRUTH))
    assert spearman(SCORES, TRUTH) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert math.isnan(spearman([1, 1], [1, 2]))
    assert math.isnan(weighted_tau([1, 1], [1, 2]))


def test_local_statistics_see_the_truly_best_alone() -> None:
    best = sorted(range(60), key=lambda i: -TRUTH[i])[:12]
    expected = kendall_tau([SCORES[i] for i in best], [TRUTH[i] for i in best])
    assert local(kendall_tau, 0.2)(SCORES, TRUTH) == pytest.approx(expected)
    assert local(kendall_tau, 1.0)(SCORES, TRUTH) == kendall_tau(SCORES, TRUTH)
    # two at least, and all that equal the last
    assert local(kendall_tau, 0.01)([1, 2, 3, 4], [1, 5, 4, 4]) == pytest.approx(kendall_tau([2, 3, 4], [5, 4, 4]))
    with pytest.raises(ConfigError, match="share is 0"):
        local(kendall_tau, 0)


def test_overlap_counts_the_truly_best() -> None:
    assert top_k_overlap(2)([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert top_k_overlap(2)([4, 3, 2, 1], [1, 2, 3, 4]) == 0
    assert top_k_overlap(2)([1, 9, 3, 8], [1, 2, 3, 4]) == 0.5
    # of the three that share the border, one is taken: with chance 1/3 the best, else none
    assert top_k_overlap(1)([2, 2, 2, 1], [4, 3, 2, 1]) == pytest.approx(1 / 3)
    # three are truly best
    assert top_k_overlap(2)([1, 2, 3, 4], [5, 5, 5, 1]) == 0.5
    assert top_k_overlap(2)([3, 2, 1, 0], [5, 5, 5, 1]) == 1
    with pytest.raises(ConfigError, match="k is 5"):
        top_k_overlap(5)([1, 2], [1, 2])


def test_best_rank_is_that_of_the_best_among_the_highest_scored() -> None:
    truth = [10, 20, 30, 40]
    assert best_rank(1)([4, 3, 2, 1], truth) == 4
    assert best_rank(2)([4, 3, 2, 1], truth) == 3
    assert best_rank(4)([4, 3, 2, 1], truth) == 1
    assert best_rank(1)([4, 4, 4, 1], truth) == 2
    with pytest.raises(ConfigError, match="k is 0"):
        best_rank(0)([1, 2], [1, 2])


def test_scores_may_be_transformed() -> None:
    other = [math.exp(score) for score in SCORES]
    for statistic in (weighted_tau, spearman, local(kendall_tau, 0.3), top_k_overlap(7), best_rank(7), regret):
        assert statistic(other, TRUTH) == pytest.approx(statistic(SCORES, TRUTH))


def test_one_call_gives_all_with_their_intervals() -> None:
    found = ranking(SCORES, TRUTH, share=0.5, k=5, samples=50)
    names = ["kendall_tau", "local_kendall_tau", "weighted_tau", "spearman", "top_k_overlap", "best_rank", "regret"]
    assert sorted(found) == sorted(f"{name}{end}" for name in names for end in ("", "_low", "_high"))
    assert found["kendall_tau_low"] < found["kendall_tau"] == kendall_tau(SCORES, TRUTH) < found["kendall_tau_high"]
    assert found["local_kendall_tau"] == local(kendall_tau, 0.5)(SCORES, TRUTH)
    assert found["best_rank"] == best_rank(5)(SCORES, TRUTH)
    assert ranking([1, 2, 3], [1, 2, 3], samples=5)["top_k_overlap"] == 1  # fewer than k
    with pytest.raises(DataError, match="not finite"):
        ranking([1, math.nan], [1, 2])


def test_a_gain_is_told_from_none() -> None:
    generator = np.random.default_rng(1)
    truth = np.arange(100.0)
    worse = [(truth + generator.normal(scale=100, size=100)).tolist() for _ in range(3)]
    better = [(truth + generator.normal(scale=20, size=100)).tolist() for _ in range(3)]
    gain = gain_interval(worse, better, truth.tolist(), kendall_tau, samples=200)
    assert 0.1 < gain.low < gain.high < 1
    none = gain_interval(worse, worse, truth.tolist(), kendall_tau, samples=20)
    assert (none.low, none.high) == (0, 0)
    alike = [(truth + generator.normal(scale=100, size=100)).tolist() for _ in range(3)]
    low, high, _ = gain_interval(worse, alike, truth.tolist(), kendall_tau, samples=200)
    assert low < 0 < high
    for before, after in ((worse, better[:2]), ([], [])):
        with pytest.raises(DataError, match="expected as many"):
            gain_interval(before, after, truth.tolist(), kendall_tau)
    with pytest.raises(ConfigError, match="level 1"):
        gain_interval(worse, better, truth.tolist(), kendall_tau, level=1)


def test_the_metric_gathers_batches_and_processes() -> None:
    expected = ranking(SCORES, TRUTH, samples=20)
    metric = Ranking(samples=20)
    for part in range(0, 60, 25):
        metric.update(torch.tensor(SCORES[part : part + 25]), torch.tensor(TRUTH[part : part + 25]))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == pytest.approx(expected, abs=1e-6)
    halves = [Ranking(samples=20), Ranking(samples=20)]
    for half, rows in zip(halves, (slice(0, 20), slice(20, 60)), strict=True):
        half.update(torch.tensor(SCORES[rows]), torch.tensor(TRUTH[rows]))
    halves[0]._reduce_states(
        {name: list(getattr(halves[1], name)) for name in ("scores", "truth")}
    )  # as after a gather
    both = {name: float(value) for name, value in halves[0].compute().items()}
    assert both["kendall_tau"] == pytest.approx(expected["kendall_tau"])
    single = Ranking()
    single.update(torch.ones(1), torch.ones(1))
    with pytest.raises(DataError, match="two or more"):
        single.compute()
