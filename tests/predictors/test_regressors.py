"""Regressors: what they learn, and from which features."""

import numpy as np
import pytest

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.predictors.regressors import MLP, GradientBoosting, Predictor, RandomForest, one_hot
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.random_search import RandomSearch

SPACE = NASBench201Space()


def value(architecture: Architecture) -> float:
    c = architecture.choices
    return sum(v * 1.01**i for i, v in enumerate(c)) - 3.0 * (c[0] == 4)


def test_features_have_a_bit_for_every_value() -> None:
    features = one_hot([(0, 2, 1), (1, 0, 0)], (2, 3, 2))
    assert features.tolist() == [[1, 0, 0, 0, 1, 0, 1], [0, 1, 1, 0, 0, 1, 0]]


@pytest.mark.parametrize(
    "predictor",
    [RandomForest(30), GradientBoosting(), MLP((30,))],
    ids=lambda p: type(p).__name__,
)
def test_predictors_rank_what_they_have_not_seen_and_are_seeded(predictor: Predictor) -> None:
    search = RandomSearch()
    search.start(SPACE)
    cells = search.sample_unseen(300)
    features = one_hot([a.choices for a in cells], SPACE.num_values)
    performance = np.array([value(a) for a in cells])
    first, second, other = (
        predictor.predict(features[:200], performance[:200], features[200:], seed) for seed in (1, 1, 2**40)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.corrcoef(first, performance[200:])[0, 1] > 0.75
    flat = predictor.predict(features[:10], np.ones(10), features[:10], 0)  # of no deviation
    assert np.allclose(flat, 0, atol=0.05)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="trees is 0"):
        RandomForest(0)
    with pytest.raises(ConfigError, match="learning_rate is 0"):
        GradientBoosting(learning_rate=0)
    with pytest.raises(ConfigError, match="widths is"):
        MLP(())
    with pytest.raises(ConfigError, match="steps is 0"):
        MLP(steps=0)
