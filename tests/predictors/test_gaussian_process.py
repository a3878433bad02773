"""The Gaussian process: its posterior against the textbook, and what its weights learn."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from lightning_nas.architecture import Architecture
from lightning_nas.predictors.feature_table import FeatureTable
from lightning_nas.predictors.gaussian_process import Kernel, Posterior, fit_kernel
from lightning_nas.predictors.regressors import Values
from lightning_nas.spaces import NASBench201Space

RANDOM = np.random.default_rng(0)


def table(values: Values, groups: tuple[str, ...]) -> FeatureTable:
    return FeatureTable(values, groups, {str(i): i for i in range(len(values))})


KNOWN, OTHERS = (table(RANDOM.normal(size=(n, 3)), ("a", "b", "b")) for n in (8, 5))
TARGET = RANDOM.normal(size=8)
KERNEL = Kernel({"a": 0.7, "b": 0.2}, 0.1)


def covariance(first: Values, second: Values) -> Values:
    scales = np.array([0.7, 0.2, 0.2])
    covariances: Values = np.exp(-cdist(first * scales, second * scales, "cityblock"))
    return covariances


def test_a_table_has_a_column_per_name_and_zeros_for_the_rest() -> None:
    space = NASBench201Space()
    some = {str(i): space.architecture((i,) * 6) for i in range(3)}
    features = {
        some["0"]: {"a": {"x": 1.0}},
        some["1"]: {"b": {"x": 2.0}, "a": {"y": 3.0}},
        some["2"]: {"a": {"y": 5.0, "x": 4.0}},
    }

    def described(architecture: Architecture) -> dict[str, dict[str, float]]:
        return features[architecture]

    made = FeatureTable.of(some, described)
    assert made.groups == ("a", "b", "a")
    assert made.values.tolist() == [[1, 0, 0], [0, 2, 3], [4, 0, 5]]
    part = made.rows(["2", "0"])
    assert part.values.tolist() == [[4, 0, 5], [1, 0, 0]]
    assert part.rows(["0"]).values.tolist() == [[1, 0, 0]]


def test_the_posterior_is_that_of_the_textbook() -> None:
    posterior = Posterior(KERNEL, KNOWN, TARGET, OTHERS)
    inverse = np.linalg.inv(covariance(KNOWN.values, KNOWN.values) + 0.1 * np.eye(8))
    cross = covariance(OTHERS.values, KNOWN.values)
    scale = TARGET @ inverse @ TARGET / 8
    np.testing.assert_allclose(posterior.mean, cross @ inverse @ TARGET)
    np.testing.assert_allclose(posterior.variance, scale * (1 - np.diag(cross @ inverse @ cross.T)))
    assert posterior.noise == pytest.approx(0.1 * scale)


def test_a_believed_architecture_only_lowers_variances() -> None:
    posterior = Posterior(KERNEL, KNOWN, TARGET, OTHERS)
    mean, scale = posterior.mean.copy(), posterior.noise / 0.1
    for place in (1, 4):
        posterior.believe(place)
    known = np.vstack([KNOWN.values, OTHERS.values[[1, 4]]])
    inverse = np.linalg.inv(covariance(known, known) + 0.1 * np.eye(10))
    cross = covariance(OTHERS.values, known)
    np.testing.assert_allclose(posterior.variance, scale * (1 - np.diag(cross @ inverse @ cross.T)))
    np.testing.assert_allclose(posterior.mean, mean)
    np.testing.assert_allclose(cross @ inverse @ [*TARGET, mean[1], mean[4]], mean)


def test_weights_and_noise_follow_the_evaluations() -> None:
    values = RANDOM.normal(size=(80, 4))
    known = table(values, ("decides", "decides", "other", "other"))
    target = np.sin(values[:, 0]) + values[:, 1]
    clean = fit_kernel(known, (target - target.mean()) / target.std())
    assert clean.weights["decides"] > 20 * clean.weights["other"]
    noisy = target + RANDOM.normal(size=80) * target.std()
    assert fit_kernel(known, (noisy - noisy.mean()) / noisy.std()).noise > 20 * clean.noise


def test_the_order_of_values_helps_where_there_is_one() -> None:
    widths = RANDOM.integers(0, 8, (230, 5))
    performance = np.log1p(widths) @ [1, 2, 3, 2, 1] - 0.02 * (widths**2).sum(1)
    target = (performance[:30] - performance[:30].mean()) / performance[:30].std()
    values, groups = [np.eye(8)[widths].reshape(230, -1), widths / 7], (*["choices"] * 40, *["values"] * 5)
    correlations = []
    for number in (40, 45):
        every = table(np.hstack(values)[:, :number], groups[:number])
        known, others = every.rows(map(str, range(30))), every.rows(map(str, range(30, 230)))
        mean = Posterior(fit_kernel(known, target), known, target, others).mean
        correlations.append(np.corrcoef(mean, performance[30:])[0, 1])
    assert correlations[1] > max(correlations[0] + 0.03, 0.95)


def test_the_unit_of_a_feature_does_not_matter() -> None:
    values = RANDOM.normal(size=(30, 2))
    target = values @ [1.0, 0.3]
    target = (target - target.mean()) / target.std()
    first, second = (fit_kernel(table(values * [1, unit], ("a", "b")), target) for unit in (1, 1024))
    assert second.weights["b"] * 1024 == pytest.approx(first.weights["b"], rel=1e-6)
    assert second.weights["a"] == pytest.approx(first.weights["a"], rel=1e-6)


def test_nothing_to_learn_from_is_no_error() -> None:
    known = table(np.ones((4, 2)), ("a", "b"))
    for target in (np.zeros(4), np.array([1.0, -1.0, 1.0, -1.0])):
        kernel = fit_kernel(known, target)
        posterior = Posterior(kernel, known, target, known)
        assert np.isfinite([*kernel.weights.values(), kernel.noise, *posterior.mean, *posterior.variance]).all()
        assert posterior.noise > 0
