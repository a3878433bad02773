"""Spaces of independent choices, as a user writes them."""

from collections.abc import Sequence
from itertools import product

import pytest
import torch
from torch import nn

from lightning_nas.architecture import Architecture, SpaceSpec
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.spaces import Graph, ProductSpace, build_network, load_architecture


class Small(ProductSpace):
    """Two kinds and three widths, and nothing else."""

    def __init__(self, widths: Sequence[int] = (1, 2, 3), kind: str = "linear") -> None:
        self.widths = widths
        self.kind = kind

    @property
    def values(self) -> Sequence[Sequence[str]]:
        return (("plain", self.kind), [str(width) for width in self.widths])

    def network(self, architecture: Architecture, *, num_classes: int, image_shape: Sequence[int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


class Forgetful(Small):
    """Does not keep an argument."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()


SPACE = Small([1, 2, 3])


def test_everything_follows_from_the_values() -> None:
    every = {SPACE.architecture(choices) for choices in product(range(2), range(3))}
    generator = torch.Generator().manual_seed(0)
    assert {SPACE.sample(generator) for _ in range(60)} == every
    start = SPACE.architecture([0, 1])
    assert [near.choices for near in SPACE.neighbours(start)] == [(1, 1), (0, 0), (0, 2)]
    assert SPACE.mutate(start, generator) in set(SPACE.neighbours(start))
    assert SPACE.largest().choices == (1, 2)
    assert SPACE.text(SPACE.largest()) == "linear:3"
    assert SPACE.graphs(start) == [Graph("chain", ("0", "1", "2"), ((0, 1, "plain"), (1, 2, "2")))]


def test_the_identity_is_the_class_with_its_arguments() -> None:
    path = SPACE.largest().save("architecture.json")
    assert load_architecture(path) == SPACE.largest()
    pairs = (("widths", [1, 2, 3]), ("kind", "linear"))
    assert SPACE.spec() == SpaceSpec(f"{__name__}.Small", pairs) == SpaceSpec(f"{__name__}.Small", pairs[::-1])
    assert hash(SPACE.spec()) == hash(SpaceSpec(f"{__name__}.Small", pairs[::-1]))
    with pytest.raises(ConfigError, match=r"Forgetful has no attributes \['depth'\]"):
        Forgetful().spec()
    with pytest.raises(ConfigError, match=r"The arguments \['widths'\] of Small .* only numbers, text"):
        Small(range(3)).spec()


@pytest.mark.parametrize(
    ("choices", "match"),
    [([0], "1 choices; Small has 2"), ([2, 0], "Choice 0 is 2; it must be from 0 to 1"), ([0, -1], "Choice 1 is -1")],
)
def test_other_choices_are_refused(choices: list[int], match: str) -> None:
    with pytest.raises(ArchitectureError, match=match):
        SPACE.architecture(choices)
    with pytest.raises(ArchitectureError, match="another|expected"):
        SPACE.check(Small([4, 5, 6]).largest())


def test_its_network_is_built_without_the_sizes_that_it_lacks() -> None:
    network = build_network(SPACE, SPACE.largest(), num_classes=4, image_shape=(1, 2, 2), channels=8, cells=3)
    assert network(torch.randn(5, 1, 2, 2)).shape == (5, 4)
