"""A Gaussian process over architectures, whose kernel weighs groups of features."""

from dataclasses import dataclass

import numpy as np

from lightning_nas.predictors.feature_table import FeatureTable
from lightning_nas.predictors.regressors import Values

SPREAD = 2.0
"""Standard deviation of the prior of the logarithm of every weight, and of the noise."""

NOISE = 0.01
"""Median of the prior of the noise, in units of the variance of the process."""

LOG_RANGE = (-12.0, 6.0)
"""Bounds of the logarithms of weights and noise, which keep the kernel's matrix invertible."""


@dataclass(frozen=True)
class Kernel:
    """The kernel ``exp(-sum of weight x L1 distance)`` over groups of features, with independent noise.

    Attributes:
        weights: The weight of every group.
        noise: Variance of the noise, in units of the variance of the process.
    """

    weights: dict[str, float]
    noise: float

    def scaled(self, table: FeatureTable) -> Values:
        """Features times their weights; a group without a weight has the weight 0.

        Args:
            table: The features.
        """
        scaled: Values = table.values * np.array([self.weights.get(group, 0.0) for group in table.groups])
        return scaled


def similarity(first: Values, second: Values) -> Values:
    """The kernel between two sets of architectures, without noise, ``(first, second)``.

    Args:
        first: Scaled features of the first ones; see ``Kernel.scaled``.
        second: Those of the second ones.
    """
    from scipy.spatial.distance import cdist  # slow to import

    similar: Values = np.exp(-cdist(first, second, "cityblock"))
    return similar


def fit_kernel(known: FeatureTable, target: Values) -> Kernel:
    """Choose weights and noise by their posterior: the marginal likelihood times a wide log-normal prior.

    The median of the prior of a weight makes the group's mean contribution to the distance of two known architectures
    one over the number of groups. The variance of the process is the one that maximizes the likelihood.

    Args:
        known: Features of the known architectures, at least 2.
        target: Their standardized performance, ``(n,)``.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize
    from scipy.spatial.distance import cdist

    groups = list(dict.fromkeys(known.groups))
    distances = np.stack(
        [cdist(part, part, "cityblock") for part in (known.values[:, np.array(known.groups) == g] for g in groups)]
    )
    count = len(target)
    means = distances.sum((1, 2)) / (count * (count - 1))
    unit = np.where(means > 0, means, 1.0)
    distances /= unit[:, None, None]
    center = np.log([*[1 / len(groups)] * len(groups), NOISE])

    def loss(theta: Values) -> tuple[float, Values]:
        """The negative logarithm of the posterior, and its gradient."""
        weights, noise = np.exp(theta[:-1]), np.exp(theta[-1])
        similar = np.exp(-np.tensordot(weights, distances, 1))
        factor = cho_factor(similar + noise * np.eye(count), lower=True)
        inverse = cho_solve(factor, np.eye(count))
        solved = inverse @ target
        variance = max(target @ solved / count, 1e-12)
        outer = (inverse - np.outer(solved, solved) / variance) / 2
        pull = (theta - center) / SPREAD**2
        value = count / 2 * np.log(variance) + np.log(np.diag(factor[0])).sum() + pull @ (theta - center) / 2
        slope = [*(-weights * np.tensordot(distances, outer * similar, 2)), noise * np.trace(outer)]
        return float(value), np.array(slope) + pull

    found = minimize(loss, center, jac=True, method="L-BFGS-B", bounds=[LOG_RANGE] * len(center))
    best = np.exp(found.x)
    return Kernel(dict(zip(groups, (best[:-1] / unit).tolist(), strict=True)), float(best[-1]))


class Posterior:
    """What a Gaussian process expects of architectures after the performance of others is known.

    Attributes:
        mean: Expected performance of every architecture, ``(m,)``.
        variance: Variance of the performance, without noise, ``(m,)``.
        noise: Variance of the noise.

    Args:
        kernel: The kernel.
        known: Features of the known architectures, ``n`` rows.
        target: Their performance, ``(n,)``, with mean 0.
        others: Features of the others, ``m`` rows, with the same columns.
    """

    def __init__(self, kernel: Kernel, known: FeatureTable, target: Values, others: FeatureTable) -> None:
        from scipy.linalg import solve_triangular

        points, self._others = kernel.scaled(known), kernel.scaled(others)
        factor = np.linalg.cholesky(similarity(points, points) + kernel.noise * np.eye(len(target)))
        white = solve_triangular(factor, target, lower=True)
        half = solve_triangular(factor, similarity(points, self._others), lower=True)
        scale = max(float(white @ white) / len(target), 1e-12)
        self._scale = scale
        self.noise = scale * kernel.noise
        self.mean: Values = white @ half
        self._half: Values = half * np.sqrt(scale)
        self.variance: Values = np.maximum(scale - (self._half**2).sum(0), 0.0)

    def believe(self, place: int) -> None:
        """Assume that the performance of an architecture is the expected one, which leaves all means unchanged.

        Args:
            place: Row of the architecture among the others.
        """
        shared = self._scale * similarity(self._others[[place]], self._others)[0]
        covariance = shared - self._half[:, place] @ self._half
        row = covariance / np.sqrt(self.variance[place] + self.noise)
        self._half = np.vstack([self._half, row])
        self.variance = np.maximum(self.variance - row**2, 0.0)
