"""Features of architectures as a matrix, for predictors."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError
from lightning_nas.predictors.regressors import Values
from lightning_nas.spaces.base import Features, SearchSpace


@dataclass(frozen=True)
class FeatureTable:
    """Features of architectures as one matrix.

    Attributes:
        values: The features, ``(architectures, columns)``.
        groups: The group of every column.
        places: The row of every architecture, by its key.
    """

    values: Values
    groups: tuple[str, ...]
    places: Mapping[str, int]

    @classmethod
    def of(
        cls,
        architectures: Mapping[str, Architecture],
        features: Callable[[Architecture], Features],
        groups: Collection[str] | None = None,
    ) -> "FeatureTable":
        """Collect the features of architectures.

        Args:
            architectures: The architectures by their keys.
            features: Their features, such as ``SearchSpace.features``.
            groups: Names of the groups to collect, all of which exist; all by default.
        """
        columns: dict[tuple[str, str], int] = {}
        rows, places, numbers = [], [], []
        for row, architecture in enumerate(architectures.values()):
            for group, named in features(architecture).items():
                if groups is not None and group not in groups:
                    continue
                for name, number in named.items():
                    rows.append(row)
                    places.append(columns.setdefault((group, name), len(columns)))
                    numbers.append(number)
        values = np.zeros((len(architectures), len(columns)))
        values[rows, places] = numbers
        return cls(values, tuple(group for group, _ in columns), {key: row for row, key in enumerate(architectures)})

    def rows(self, keys: Iterable[str]) -> "FeatureTable":
        """The table of some architectures.

        Args:
            keys: Their keys.
        """
        chosen = list(keys)
        places = {key: row for row, key in enumerate(chosen)}
        return FeatureTable(self.values[[self.places[key] for key in chosen]], self.groups, places)


def check_groups(space: SearchSpace, groups: Collection[str] | None) -> None:
    """Refuse names of groups of features that a space does not have.

    Args:
        space: The space.
        groups: The names; None stands for all groups.

    Raises:
        ConfigError: The space lacks one of the groups, or none is named.
    """
    if groups is None:
        return
    known = space.features(space.sample(torch.Generator().manual_seed(0)))
    if not groups or not set(groups) <= set(known):
        raise ConfigError(
            f"groups is {list(groups)}; it must name at least one of the space's groups of features, {list(known)}."
        )
