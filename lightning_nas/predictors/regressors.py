"""Regressors from the choices of an architecture to what it is worth."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_nas.errors import ConfigError

Values = NDArray[np.float64]


class Predictor(ABC):
    """Learns from a few known architectures, and predicts others; made anew for every fit."""

    @abstractmethod
    def regressor(self, seed: int) -> Any:
        """A regressor with scikit-learn's ``fit`` and ``predict``."""

    def predict(self, known: Values, worth: Values, others: Values, seed: int) -> Values:
        """Fit, and predict.

        Args:
            known: Features of known architectures, ``(n, features)``.
            worth: Of these, ``(n,)``, higher is better.
            others: Features of others, ``(m, features)``.
            seed: Of the regressor.

        Returns:
            ``(m,)``, in units of the standardised worth.
        """
        deviation = worth.std()
        target = (worth - worth.mean()) / (deviation if deviation > 0 else 1.0)
        predicted: Values = self.regressor(seed).fit(known, target).predict(others)
        return predicted


class RandomForest(Predictor):
    """A random forest.

    Args:
        trees: How many, at least 1.
    """

    def __init__(self, trees: int = 100) -> None:
        if trees < 1:
            raise ConfigError(f"trees is {trees}; it must be at least 1.")
        self.trees = trees

    def regressor(self, seed: int) -> Any:
        """scikit-learn's; see ``Predictor.regressor``."""
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(n_estimators=self.trees, random_state=seed % 2**32)


class GradientBoosting(Predictor):
    """Gradient boosted trees.

    Args:
        trees: How many, at least 1.
        depth: Of a tree, at least 1.
        learning_rate: Above 0.
    """

    def __init__(self, trees: int = 100, depth: int = 3, learning_rate: float = 0.1) -> None:
        if trees < 1 or depth < 1 or learning_rate <= 0:
            raise ConfigError(
                f"trees is {trees}, depth {depth} and learning_rate {learning_rate}; at least 1, 1 and above 0."
            )
        self.trees = trees
        self.depth = depth
        self.learning_rate = learning_rate

    def regressor(self, seed: int) -> Any:
        """scikit-learn's; see ``Predictor.regressor``."""
        from sklearn.ensemble import GradientBoostingRegressor

        return GradientBoostingRegressor(
            n_estimators=self.trees,
            max_depth=self.depth,
            learning_rate=self.learning_rate,
            subsample=0.8,
            random_state=seed % 2**32,
        )


class MLP(Predictor):
    """A small network of fully connected layers.

    Args:
        widths: Of the hidden layers (WeakNAS: four of 1000).
        steps: At most so many passes over the known architectures.
    """

    def __init__(self, widths: Sequence[int] = (100, 100), steps: int = 200) -> None:
        if not widths or min(widths) < 1 or steps < 1:
            raise ConfigError(f"widths is {list(widths)} and steps {steps}; one width or more, all at least 1.")
        self.widths = tuple(widths)
        self.steps = steps

    def regressor(self, seed: int) -> Any:
        """scikit-learn's; see ``Predictor.regressor``."""
        from sklearn.neural_network import MLPRegressor

        return _Quiet(
            MLPRegressor(hidden_layer_sizes=self.widths, solver="lbfgs", max_iter=self.steps, random_state=seed % 2**32)
        )


class _Quiet:
    """A regressor that does not complain of having been stopped, which is meant here."""

    def __init__(self, regressor: Any) -> None:
        self.regressor = regressor

    def fit(self, features: Values, worth: Values) -> Any:
        """Fit without the warning."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return self.regressor.fit(features, worth)


def one_hot(choices: Sequence[Sequence[int]], alphabet: Sequence[int]) -> Values:
    """Features of architectures: a bit for every value of every choice, ``(n, sum of the alphabet)``."""
    offsets = np.cumsum([0, *alphabet[:-1]])
    places = np.asarray(choices, np.int64).reshape(-1, len(alphabet)) + offsets
    features = np.zeros((len(places), int(sum(alphabet))))
    np.put_along_axis(features, places, 1.0, axis=1)
    return features
