"""Rank statistics against their definitions and on known cases."""

import math
from itertools import combinations

import numpy as np
import pytest

from lightning_nas.errors import ConfigError, DataError
from lightning_nas.metrics.ranking import (
    best_rank,
    bootstrap_interval,
    kendall_tau,
    local,
    ranking,
    regret,
    spearman,
    top_k_overlap,
    weighted_tau,
)

GENERATOR = np.random.default_rng(0)
TARGET = GENERATOR.normal(size=60).tolist()
SCORES = (np.array(TARGET) + GENERATOR.normal(size=60)).tolist()


def tau_b(x: list[float], y: list[float]) -> float:
    """The definition, pair by pair."""
    concordant = discordant = only_x = only_y = 0
    for i, j in combinations(range(len(x)), 2):
        a, b = x[i] - x[j], y[i] - y[j]
        concordant += a * b > 0
        discordant += a * b < 0
        only_x += a == 0 != b
        only_y += b == 0 != a
    both = concordant + discordant
    return (concordant - discordant) / math.sqrt((both + only_x) * (both + only_y))


@pytest.mark.parametrize("values", [3, 6, 1000])
@pytest.mark.parametrize("count", [2, 5, 40])
def test_tau_is_that_of_the_definition_with_few_and_many_ties(count: int, values: int) -> None:
    generator = np.random.default_rng(values + count)
    for _ in range(10):
        x, y = generator.integers(values, size=(2, count)).astype(float).tolist()
        if len(set(x)) > 1 < len(set(y)):
            assert kendall_tau(x, y) == pytest.approx(tau_b(x, y), abs=1e-12)


def test_tau_of_known_orders() -> None:
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(2 / 3)


def test_without_an_order_there_is_no_tau() -> None:
    assert math.isnan(kendall_tau([1, 1, 1], [1, 2, 3]))
    assert math.isnan(kendall_tau([1, 2], [5, 5]))


def test_regret_is_the_price_of_the_first_choice() -> None:
    assert regret([1, 3, 2], [0.9, 0.5, 0.7]) == pytest.approx(0.4)
    assert regret([3, 1, 2], [0.9, 0.5, 0.7]) == 0
    # the first two share the highest score
    assert regret([2, 2, 1], [0.5, 0.7, 0.9]) == pytest.approx(0.3)


def test_a_perfect_order_stays_perfect_in_every_resample() -> None:
    low, high, undefined = bootstrap_interval(kendall_tau, range(20), range(20))
    assert (low, high, undefined) == (pytest.approx(1), pytest.approx(1), 0)


def test_an_interval_of_means_is_that_of_the_normal_distribution() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=400).tolist()
    low, high, _ = bootstrap_interval(lambda s, t: float(np.mean(s)), scores, scores, samples=4000, level=0.9)
    half = 1.645 * np.std(scores) / 20
    assert [low, high] == pytest.approx([np.mean(scores) - half, np.mean(scores) + half], abs=0.1 * half)


def test_intervals_cover_the_truth_as_often_as_they_claim() -> None:
    """Of independent scores tau is 0."""
    generator = np.random.default_rng(1)
    covered = 0
    for seed in range(60):
        x, y = generator.normal(size=(2, 30)).tolist()
        low, high, _ = bootstrap_interval(kendall_tau, x, y, samples=60, level=0.8, seed=seed)
        covered += low <= 0 <= high
    assert 40 <= covered <= 56


def test_resamples_without_an_order_are_left_out_and_counted() -> None:
    low, high, undefined = bootstrap_interval(kendall_tau, [1, 2], [1, 2], samples=2000)
    assert (low, high) == (1, 1)
    assert undefined == pytest.approx(0.5, abs=0.05)  # twice the same one
    low, high, undefined = bootstrap_interval(kendall_tau, [1, 1, 1], [1, 2, 3], samples=5)
    assert math.isnan(low)
    assert math.isnan(high)
    assert undefined == 1


def test_an_interval_repeats_with_its_seed_and_keeps_pairs_together() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 12)).tolist()
    first, again, other = (bootstrap_interval(kendall_tau, x, y, samples=50, seed=s) for s in (0, 0, 1))
    assert first == again != other
    assert first.low < kendall_tau(x, y) < first.high


@pytest.mark.parametrize("function", [kendall_tau, regret, lambda s, t: bootstrap_interval(kendall_tau, s, t)])
@pytest.mark.parametrize(
    ("scores", "target", "match"),
    [
        ([1, 2, 3], [1, 2], "shape"),
        ([1], [1], "two or more"),
        ([], [], "two or more"),
        ([[1, 2]], [[1, 2]], "one value per architecture"),
        ([1, math.nan], [1, 2], r"1 of 2 values of the scores are not finite, the first at 1 \(nan\)"),
        ([1, 2], [math.inf, 2], "values of the target are not finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    function: object, scores: list[float], target: list[float], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        function(scores, target)  # type: ignore[operator]


@pytest.mark.parametrize("options", [{"samples": 0}, {"level": 0.0}, {"level": 1.0}])
def test_an_impossible_bootstrap_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="(samples|level) is"):
        bootstrap_interval(kendall_tau, [1, 2], [1, 2], **options)  # type: ignore[arg-type]


def test_weighted_tau_is_that_of_the_definition() -> None:
    ranks = {value: rank for rank, value in enumerate(sorted(TARGET, reverse=True))}
    total = agreed = 0.0
    for i, j in combinations(range(60), 2):
        weight = 1 / (1 + ranks[TARGET[i]]) + 1 / (1 + ranks[TARGET[j]])
        total += weight
        agreed += weight * math.copysign(1, (TARGET[i] - TARGET[j]) * (SCORES[i] - SCORES[j]))
    assert weighted_tau(SCORES, TARGET) == pytest.approx(agreed / total)


def test_weighted_tau_does_not_depend_on_the_order_of_ties() -> None:
    target = [round(value) for value in TARGET]
    assert len(set(target)) < 50
    generator = np.random.default_rng(0)
    found = []
    for _ in range(10):
        order = generator.permutation(60)
        found.append(weighted_tau([SCORES[i] for i in order], [target[i] for i in order]))
    assert found == pytest.approx([found[0]] * 10, abs=1e-12)
    # by hand: the two equals share the weights of their ranks, 1 and 1/2
    assert weighted_tau([3, 1, 2], [5, 5, 1]) == pytest.approx(
        ((0.75 + 1 / 3) - (0.75 + 1 / 3)) / (2 * 0.75 + 2 * (0.75 + 1 / 3))
    )


def test_errors_at_the_top_weigh_more() -> None:
    target = list(range(10))
    top, bottom = [*range(8), 9, 8], [1, 0, *range(2, 10)]
    assert kendall_tau(top, target) == pytest.approx(kendall_tau(bottom, target))
    assert weighted_tau(top, target) < weighted_tau(bottom, target) < 1


def test_spearman_is_the_correlation_of_ranks() -> None:
    first, second = (np.argsort(np.argsort(values)) for values in (SCORES, TARGET))
    assert spearman(SCORES, TARGET) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert math.isnan(spearman([1, 1], [1, 2]))
    assert math.isnan(weighted_tau([1, 1], [1, 2]))


def test_local_statistics_see_the_truly_best_alone() -> None:
    best = sorted(range(60), key=lambda i: -TARGET[i])[:12]
    expected = kendall_tau([SCORES[i] for i in best], [TARGET[i] for i in best])
    assert local(kendall_tau, 0.2)(SCORES, TARGET) == pytest.approx(expected)
    assert local(kendall_tau, 1.0)(SCORES, TARGET) == kendall_tau(SCORES, TARGET)
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
    target = [10, 20, 30, 40]
    assert best_rank(1)([4, 3, 2, 1], target) == 4
    assert best_rank(2)([4, 3, 2, 1], target) == 3
    assert best_rank(4)([4, 3, 2, 1], target) == 1
    assert best_rank(1)([4, 4, 4, 1], target) == 2
    with pytest.raises(ConfigError, match="k is 0"):
        best_rank(0)([1, 2], [1, 2])


def test_scores_may_be_transformed() -> None:
    other = [math.exp(score) for score in SCORES]
    for statistic in (weighted_tau, spearman, local(kendall_tau, 0.3), top_k_overlap(7), best_rank(7), regret):
        assert statistic(other, TARGET) == pytest.approx(statistic(SCORES, TARGET))


def test_one_call_gives_all_with_their_intervals() -> None:
    found = ranking(SCORES, TARGET, share=0.5, k=5, samples=50)
    names = ["kendall_tau", "local_kendall_tau", "weighted_tau", "spearman", "top_k_overlap", "best_rank", "regret"]
    assert sorted(found) == sorted(f"{name}{end}" for name in names for end in ("", "_low", "_high"))
    assert found["kendall_tau_low"] < found["kendall_tau"] == kendall_tau(SCORES, TARGET) < found["kendall_tau_high"]
    assert found["local_kendall_tau"] == local(kendall_tau, 0.5)(SCORES, TARGET)
    assert found["best_rank"] == best_rank(5)(SCORES, TARGET)
    assert ranking([1, 2, 3], [1, 2, 3], samples=5)["top_k_overlap"] == 1  # fewer than k
    with pytest.raises(DataError, match="not finite"):
        ranking([1, math.nan], [1, 2])
