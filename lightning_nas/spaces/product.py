"""Base class of spaces whose choices are independent of each other."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.graph import Graph


class ProductSpace(SearchSpace):
    """A space in which every combination of choices is an architecture, such as kinds of blocks or widths of layers.

    A subclass says what there is to choose (``values``) and builds networks (``network``); all else follows from these.
    It keeps its constructor arguments as attributes of the same names, so that artifacts can name it.

    Example:
        ```python
        class Widths(ProductSpace):
            def __init__(self, layers: int = 5) -> None:
                self.layers = layers

            @property
            def values(self):
                return (("8", "16", "32"),) * self.layers

            def network(self, architecture, *, num_classes, image_shape):
                return MyNetwork([int(width) for width in self.labels(architecture)], num_classes, image_shape[0])
        ```
    """

    @property
    @abstractmethod
    def values(self) -> Sequence[Sequence[str]]:
        """Names of the values of every choice, in the order of the network; those with most parameters come last."""

    @property
    def num_values(self) -> tuple[int, ...]:
        """Number of values of every choice."""
        return tuple(map(len, self.values))

    def labels(self, architecture: Architecture) -> list[str]:
        """Return the names of the values that an architecture has.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        return [names[choice] for names, choice in zip(self.values, architecture.choices, strict=True)]

    def check(self, architecture: Architecture) -> None:
        """See ``SearchSpace.check``."""
        self.check_spec(architecture)
        choices, counts = architecture.choices, self.num_values
        if len(choices) != len(counts):
            raise ArchitectureError(f"{len(choices)} choices; {type(self).__name__} has {len(counts)}.")
        for place, (choice, count) in enumerate(zip(choices, counts, strict=True)):
            if not 0 <= choice < count:
                raise ArchitectureError(
                    f"Choice {place} is {choice}; it must be from 0 to {count - 1}, an index into "
                    f"{list(self.values[place])!s:.200}."
                )

    def sample(self, generator: torch.Generator) -> Architecture:
        """Draw every choice uniformly.

        Args:
            generator: Source of randomness, on the CPU.
        """
        return self.architecture([int(torch.randint(count, (1,), generator=generator)) for count in self.num_values])

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Yield all architectures that differ in one choice, in the order of the choices and values.

        Args:
            architecture: A point of this space.
        """
        self.check(architecture)
        choices = architecture.choices
        for place, count in enumerate(self.num_values):
            for value in range(count):
                if value != choices[place]:
                    yield self.architecture((*choices[:place], value, *choices[place + 1 :]))

    def largest(self) -> Architecture:
        """Return the architecture that has the last value of every choice."""
        return self.architecture([count - 1 for count in self.num_values])

    def text(self, architecture: Architecture) -> str:
        """Return the names of the values, separated by colons.

        Args:
            architecture: A point of this space.
        """
        return ":".join(self.labels(architecture))

    def graphs(self, architecture: Architecture) -> list[Graph]:
        """Return a chain of the values.

        Args:
            architecture: A point of this space.
        """
        edges = tuple((i, i + 1, label) for i, label in enumerate(self.labels(architecture)))
        return [Graph("chain", tuple(map(str, range(len(edges) + 1))), edges)]
