"""Clusters of architectures, and their winners."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.predictors.regressors import one_hot
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.dcnas import DCNAS, clustered
from tests.strategies.rugged import value

SPACE = NASBench201Space()


def tell(strategy: DCNAS, architectures: Sequence[Architecture], features: Any = None) -> None:
    strategy.tell([(a, Evaluation({"accuracy": value(a)}, features=features and features(a))) for a in architectures])


def begun(samples: int = 30, features: Any = None, **given: Any) -> DCNAS:
    """A strategy that has clustered its samples."""
    strategy = DCNAS(samples, **given)
    strategy.start(SPACE, seed=0)
    while len(strategy.evaluated) < samples:
        tell(strategy, strategy.ask(7), features)
    strategy.ask(1)
    return strategy


def keys(architectures: Sequence[Architecture]) -> list[str]:
    return [SPACE.key(a) for a in architectures]


def test_k_means_finds_groups_that_lie_apart() -> None:
    generator = np.random.default_rng(0)
    truth = generator.permutation(60) % 3
    features = np.eye(3)[truth] * 10 + generator.normal(size=(60, 3)) * 0.1
    labels = clustered(features, 3, seed=1)
    assert len(set(zip(labels, truth, strict=True))) == 3 == len(set(labels))
    assert clustered(features, 3, seed=1) == labels
    # no more clusters than there are different features, and no warning
    assert sorted(set(clustered(np.zeros((5, 2)), 3, seed=0))) == [0]
    for wrong in (0, 61):
        with pytest.raises(ConfigError, match=f"clusters is {wrong} for 60"):
            clustered(features, wrong, seed=0)
    with pytest.raises(DataError, match="60 of them are not finite"):
        clustered(features[:, :1] * np.nan, 2, seed=0)


def test_samples_are_random_then_clustered_by_their_choices() -> None:
    strategy = begun(clusters=4)
    drawn = list(strategy.evaluated.values())
    assert len(drawn) == 30
    groups: dict[int, set[str]] = {}
    for key, place in strategy.cluster.items():
        groups.setdefault(place, set()).add(key)
    assert len(groups) == 4
    choices = one_hot([a.choices for a in drawn], SPACE.num_values)
    centres = np.stack([choices[[k in groups[i] for k in strategy.evaluated]].mean(0) for i in range(4)])
    nearest = ((choices[:, None] - centres) ** 2).sum(2).argmin(1)  # what k-means has come to
    assert nearest.tolist() == [strategy.cluster[key] for key in strategy.evaluated]
    for place, group in groups.items():
        assert strategy.winners[place] == max(group, key=strategy.fitness.__getitem__)


def test_clusters_have_turns_by_what_they_gained() -> None:
    strategy = begun(clusters=3, turn=4)
    winners = [strategy.evaluated[key] for key in strategy.winners]
    gains = [float("inf")] * 3
    turns: list[int] = []
    for _ in range(25):
        place = max(range(3), key=lambda i: (gains[i], value(winners[i])))
        before = value(winners[place])
        asked: list[Architecture] = []
        while len(asked) < 4:
            near = set(keys(list(SPACE.neighbours(winners[place]))))
            more = strategy.ask(3)
            if not set(keys(more)) <= near:
                break  # all neighbours of the winner are known
            tell(strategy, more)
            asked += more
            winners[place] = max([winners[place], *more], key=value)
            assert strategy.winners[place] == SPACE.key(winners[place])
        if len(asked) < 4:
            break
        gains[place] = value(winners[place]) - before
        turns.append(place)
    assert len(turns) > 8
    assert sorted(turns[:3]) == [0, 1, 2]  # every cluster has one
    assert strategy.best() == max(strategy.evaluated.values(), key=value)


def test_features_of_the_evaluator_come_before_choices() -> None:
    def features(architecture: Architecture) -> torch.Tensor:
        return torch.tensor([[100.0 * (architecture.choices[0] == 3)], [1.0]])

    strategy = begun(60, features, clusters=2)
    groups = {(strategy.evaluated[key].choices[0] == 3, place) for key, place in strategy.cluster.items()}
    assert len(groups) == 2
    assert len(set(strategy.cluster.values())) == 2


@pytest.mark.parametrize("size", [0, 2])
def test_features_of_some_only_are_refused(size: int) -> None:
    given = iter([torch.ones(3), torch.ones(size) if size else None] + [torch.ones(3)] * 6)
    strategy = DCNAS(8, clusters=2)
    strategy.start(SPACE)
    asked = strategy.ask(8)
    strategy.tell([(a, Evaluation({"accuracy": value(a)}, features=next(given))) for a in asked])
    match = r"8 of 8 architectures, with \[2, 3\]" if size else r"7 of 8 architectures, with \[3\]"
    with pytest.raises(ConfigError, match=match):
        strategy.ask(1)


def test_a_small_space_is_searched_to_its_end() -> None:
    edges = [["none"]] * 4 + [["none", "nor_conv_3x3", "skip_connect"]] * 2
    space = NASBench201Space(allowed={"cell": edges})
    for samples in (4, 20):
        strategy = DCNAS(samples, clusters=3)
        strategy.start(space)
        while asked := strategy.ask(2):
            tell(strategy, asked)
        assert len(strategy.evaluated) == 9


def test_it_finds_better_ones_than_its_samples() -> None:
    for seed in range(3):
        strategy = DCNAS(30, clusters=4)
        strategy.start(SPACE, seed=seed)
        while len(strategy.evaluated) < 120:
            tell(strategy, strategy.ask(5))
        values = [value(a) for a in strategy.evaluated.values()]
        assert max(values[30:]) > max(values[:30])
        assert sum(values[30:]) / 90 > sum(values[:30]) / 30 + 2


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"samples": 4, "clusters": 5}, "clusters is 5; it must be at most samples, 4"),
        ({"clusters": 0}, "clusters is 0"),
        ({"turn": 0}, "turn is 0"),
    ],
)
def test_wrong_numbers_are_named(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        DCNAS(**wrong)
