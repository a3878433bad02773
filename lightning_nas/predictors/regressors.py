"""Regressors from the choices of an architecture to its performance, by scikit-learn."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_nas.checks import at_least, greater_than
from lightning_nas.errors import ConfigError

Values = NDArray[np.float64]
"""An array of float64."""

PART = 1 << 14
"""Number of architectures that are predicted at a time."""


class Predictor(ABC):
    """Learns the performance of a few known architectures and predicts that of others; every fit starts anew.

    Example:
        ```python
        class NearestNeighbours(Predictor):
            def regressor(self, seed):
                return sklearn.neighbors.KNeighborsRegressor(n_neighbors=5)
        ```
    """

    @abstractmethod
    def regressor(self, seed: int) -> Any:
        """Make a new regressor with the methods ``fit`` and ``predict`` of scikit-learn.

        Args:
            seed: Seed of its random choices.
        """

    def predict(self, known: Values, performance: Values, others: Values, seed: int) -> Values:
        """Fit to known architectures and predict others.

        Args:
            known: Features of the known architectures, ``(n, features)``.
            performance: Their performance, ``(n,)``; higher is better. It is standardized before the fit.
            others: Features of the other architectures, ``(m, features)``.
            seed: Seed of the regressor.

        Returns:
            The predicted performance of the others, ``(m,)``, in standard deviations from the mean of the known ones.
        """
        deviation = performance.std()
        target = (performance - performance.mean()) / (deviation if deviation > 0 else 1.0)
        fitted = self.regressor(seed).fit(known, target)
        # in parts, as the activations of a network for a whole space would take gigabytes
        parts = [fitted.predict(others[start : start + PART]) for start in range(0, len(others), PART)]
        return np.concatenate(parts) if parts else np.empty(0)


class RandomForest(Predictor):
    """A random forest.

    Args:
        trees: Number of trees, at least 1.

    Raises:
        ConfigError: ``trees`` is less than 1.

    Example:
        ```yaml
        predictor: {class_path: RandomForest, init_args: {trees: 200}}
        ```
    """

    def __init__(self, trees: int = 100) -> None:
        at_least(1, trees=trees)
        self.trees = trees

    def regressor(self, seed: int) -> Any:
        """A ``RandomForestRegressor``; see ``Predictor.regressor``."""
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(n_estimators=self.trees, random_state=seed % 2**32)


class GradientBoosting(Predictor):
    """Gradient-boosted trees, each fitted to 80 % of the architectures.

    Args:
        trees: Number of trees, at least 1.
        depth: Largest depth of a tree, at least 1.
        learning_rate: Factor of every tree's contribution, greater than 0.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        predictor: {class_path: GradientBoosting, init_args: {trees: 200, learning_rate: 0.05}}
        ```
    """

    def __init__(self, trees: int = 100, *, depth: int = 3, learning_rate: float = 0.1) -> None:
        at_least(1, trees=trees, depth=depth)
        greater_than(0, learning_rate=learning_rate)
        self.trees = trees
        self.depth = depth
        self.learning_rate = learning_rate

    def regressor(self, seed: int) -> Any:
        """A ``GradientBoostingRegressor``; see ``Predictor.regressor``."""
        from sklearn.ensemble import GradientBoostingRegressor

        return GradientBoostingRegressor(
            n_estimators=self.trees,
            max_depth=self.depth,
            learning_rate=self.learning_rate,
            subsample=0.8,
            random_state=seed % 2**32,
        )


class MLP(Predictor):
    """A small multi-layer perceptron, trained by L-BFGS.

    Args:
        widths: Widths of the hidden layers, at least 1 each; WeakNAS uses four layers of 1000.
        steps: Largest number of iterations of L-BFGS, at least 1.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        predictor: {class_path: MLP, init_args: {widths: [100, 100]}}
        ```
    """

    def __init__(self, widths: Sequence[int] = (100, 100), steps: int = 200) -> None:
        at_least(1, steps=steps)
        if not widths or min(widths) < 1:
            raise ConfigError(f"widths is {list(widths)}; it must hold at least one width, each at least 1.")
        self.widths = tuple(widths)
        self.steps = steps

    def regressor(self, seed: int) -> Any:
        """An ``MLPRegressor``; see ``Predictor.regressor``."""
        from sklearn.neural_network import MLPRegressor

        return _Quiet(
            MLPRegressor(hidden_layer_sizes=self.widths, solver="lbfgs", max_iter=self.steps, random_state=seed % 2**32)
        )


class _Quiet:
    """A regressor that does not warn when it stops before convergence, as it is meant to here."""

    def __init__(self, regressor: Any) -> None:
        self.regressor = regressor

    def fit(self, features: Values, performance: Values) -> Any:
        """Fit without the warning."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return self.regressor.fit(features, performance)


def one_hot(choices: Sequence[Sequence[int]], num_values: Sequence[int]) -> Values:
    """One-hot features of architectures: one bit per value of every choice.

    Args:
        choices: Choices of the architectures, ``(n, choices)``.
        num_values: Number of values of every choice; see ``SearchSpace.num_values``.

    Returns:
        The features, ``(n, sum of num_values)``.
    """
    offsets = np.cumsum([0, *num_values[:-1]])
    places = np.asarray(choices, np.int64).reshape(-1, len(num_values)) + offsets
    features = np.zeros((len(places), int(sum(num_values))))
    np.put_along_axis(features, places, 1.0, axis=1)
    return features
