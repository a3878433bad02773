from math import prod

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.operation_modules import drop_path
from lightning_nas.spaces.operations import OPERATIONS
from lightning_nas.spaces.supernet import Mixture
from tests.genotypes import DARTS_V1, DARTS_V2, PCDARTS_CIFAR, PCDARTS_IMAGENET, PDARTS


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("partial_channels", "expected"), [(1, 1_930_618), (4, 299_578)])
def test_supernet_has_the_published_number_of_parameters(partial_channels: int, expected: int) -> None:
    space = DARTSSpace(partial_channels=partial_channels)
    assert count(space.supernet(num_classes=10, image_shape=(3, 32, 32))) == expected


@pytest.mark.parametrize(
    ("genotype", "expected"),
    [(DARTS_V1, 3_169_414), (DARTS_V2, 3_349_342), (PDARTS, 3_433_798), (PCDARTS_CIFAR, 3_634_678)],
)
def test_cifar_networks_have_the_published_number_of_parameters(genotype: str, expected: int) -> None:
    space = DARTSSpace()
    assert count(space.network(space.parse(genotype), num_classes=10, image_shape=(3, 32, 32))) == expected


@pytest.mark.parametrize(
    ("genotype", "expected"), [(DARTS_V2, 4_718_752), (PDARTS, 4_944_352), (PCDARTS_IMAGENET, 5_342_464)]
)
def test_imagenet_networks_have_the_published_number_of_parameters(genotype: str, expected: int) -> None:
    space = DARTSSpace()
    network = space.network(
        space.parse(genotype), num_classes=1000, image_shape=(3, 224, 224), channels=48, cells=14, imagenet_stem=True
    )
    assert count(network) == expected


def test_genotypes_make_the_round_trip() -> None:
    space = DARTSSpace()
    for genotype in (DARTS_V1, DARTS_V2, PDARTS, PCDARTS_CIFAR, PCDARTS_IMAGENET):
        architecture = space.parse(genotype)
        again = space.parse(space.text(architecture))
        assert again == architecture
        assert space.text(architecture).replace(" ", "")[:60] == genotype.replace(" ", "")[:60]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Genotype(",
        "print('x')",
        "Genotype(normal=[('sep_conv_9x9', 0), ('sep_conv_3x3', 1)], normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=__import__('os').system('true'), normal_concat=[2], reduce=[], reduce_concat=[2])",
        DARTS_V2.replace("('skip_connect', 0), ('dil_conv_3x3', 2)", "('skip_connect', 2), ('dil_conv_3x3', 2)"),
        DARTS_V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 7)"),
        DARTS_V2.replace("[2, 3, 4, 5]", "[3, 4, 5]"),
    ],
)
def test_what_is_no_genotype_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError):
        DARTSSpace.parse(text)


@pytest.mark.slow
def test_samples_are_uniform_over_the_whole_space() -> None:
    space = DARTSSpace(nodes=2, operations=("none", "skip_connect", "sep_conv_3x3"))
    generator = torch.Generator().manual_seed(0)
    counts: dict[str, int] = {}
    draws = 6000
    for _ in range(draws):
        key = space.key(space.sample(generator)).split("|")[0]
        counts[key] = counts.get(key, 0) + 1
    size = prod([1, 3]) * 2**4  # sources of both nodes, two operations on each of four edges
    assert len(counts) == size
    # five standard deviations of a binomial count
    assert max(abs(c - draws / size) for c in counts.values()) < 5 * (draws / size) ** 0.5


def test_neighbours_differ_in_one_choice_and_are_all_there() -> None:
    space = DARTSSpace(nodes=3)
    architecture = space.sample(torch.Generator().manual_seed(1))
    near = list(space.neighbours(architecture))
    assert len(set(near)) == len(near)
    assert architecture not in near
    for other in near:
        assert sum(a != b for a, b in zip(other.choices, architecture.choices, strict=True)) == 1
    # two cells, two inputs of each node: 6 other operations, and as many other sources as there are states left
    assert len(near) == 2 * sum(2 * (6 + i) for i in range(3))
    assert space.mutate(architecture, torch.Generator().manual_seed(2)) in near


def test_largest_has_most_parameters() -> None:
    space = DARTSSpace(nodes=2)
    options = {"num_classes": 3, "image_shape": (3, 8, 8), "channels": 4, "cells": 3}
    largest = count(space.network(space.largest(), **options))
    generator = torch.Generator().manual_seed(0)
    assert all(count(space.network(space.sample(generator), **options)) <= largest for _ in range(30))


def test_key_ignores_the_order_of_a_nodes_inputs() -> None:
    space = DARTSSpace(nodes=1)
    assert space.key(space.architecture([0, 4, 1, 3, 0, 1, 1, 2])) == space.key(
        space.architecture([1, 3, 0, 4, 1, 2, 0, 1])
    )


def test_select_keeps_the_two_best_edges_and_never_none() -> None:
    space = DARTSSpace(nodes=2)
    scores = torch.zeros(space.edges, 8)
    scores[:, 0] = 100.0  # none
    scores[0, 4], scores[1, 3] = 0.5, 0.4
    scores[2, 1], scores[3, 6], scores[4, 7] = 0.2, 0.9, 0.3
    architecture = space.select({"normal": scores, "reduce": scores})
    assert architecture.choices == (0, 4, 1, 3, 1, 6, 2, 7) * 2
    assert space.chosen(architecture)["reduce"] == [(0, 4), (1, 3), (3, 6), (4, 7)]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 9), (2, 4, 7)])
@pytest.mark.parametrize("partial_channels", [1, 2])
def test_any_size_and_channel_count_passes(shape: tuple[int, int, int], partial_channels: int) -> None:
    space = DARTSSpace(nodes=2, channels=4, cells=3, partial_channels=partial_channels)
    x = torch.randn(2, *shape)
    mixture = Mixture(torch.full((space.edges, 8), 1 / 8), torch.ones(space.edges))
    assert space.supernet(num_classes=5, image_shape=shape)(x, {"normal": mixture, "reduce": mixture}).shape == (2, 5)
    network = space.network(
        space.sample(torch.Generator().manual_seed(0)), num_classes=5, image_shape=shape, channels=4, cells=3
    )
    assert network(x).shape == (2, 5)


def test_one_operation_an_edge_is_the_architectures_own_function() -> None:
    """A one-hot mixture computes what the ordinary network computes, but for the batch norms' scales after pooling."""
    space = DARTSSpace(nodes=2, operations=("none", "skip_connect", "sep_conv_3x3"), channels=4, cells=2)
    architecture = space.sample(torch.Generator().manual_seed(3))
    supernet = space.supernet(num_classes=3, image_shape=(3, 8, 8)).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    mixtures = {}
    for name, pairs in space.chosen(architecture).items():
        operations = torch.zeros(space.edges, 3, dtype=torch.float64)
        for edge, operation in pairs:
            operations[edge, operation] = 1
        mixtures[name] = Mixture(operations, torch.ones(space.edges, dtype=torch.float64))
    logits = supernet(x, mixtures)
    unused = {name: Mixture(m.operations + 0 * torch.rand_like(m.operations), m.edges) for name, m in mixtures.items()}
    assert torch.equal(logits, supernet(x, unused))
    assert logits.std() > 0


def test_images_too_small_for_the_reductions_are_refused_with_the_size_that_does() -> None:
    space = DARTSSpace(channels=4, cells=5)
    architecture = space.sample(torch.Generator().manual_seed(0))
    with pytest.raises(DataError, match="at least 4x4"):
        space.supernet(num_classes=3, image_shape=(3, 3, 8))
    with pytest.raises(DataError, match="at least 32x32"):
        space.network(architecture, num_classes=3, image_shape=(3, 16, 16), channels=4, cells=5, auxiliary=True)


def test_auxiliary_logits_come_in_training_alone() -> None:
    space = DARTSSpace(nodes=2)
    network = space.network(
        space.largest(), num_classes=3, image_shape=(3, 32, 32), channels=4, cells=3, auxiliary=True
    )
    x = torch.randn(2, 3, 32, 32)
    assert network.forward_auxiliary(x)[1].shape == (2, 3)
    assert network.eval().forward_auxiliary(x)[1] is None


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    x = torch.ones(4000, 2, 1, 1)
    y = drop_path(x, 0.25)
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert torch.equal(y[:, 0], y[:, 1])
    assert abs(y.mean() - 1) < 0.05


@pytest.mark.parametrize(
    "arguments",
    [{"operations": ("conv",)}, {"operations": ("none",)}, {"nodes": 0}, {"channels": 6, "partial_channels": 4}],
)
def test_impossible_spaces_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DARTSSpace(**arguments)  # type: ignore[arg-type]


def test_architecture_of_another_space_is_refused() -> None:
    three = DARTSSpace(nodes=3).largest()
    with pytest.raises(ArchitectureError, match="another|expected"):
        DARTSSpace().network(three, num_classes=3, image_shape=(3, 8, 8))
    with pytest.raises(ArchitectureError):
        DARTSSpace().check(Architecture(DARTSSpace().spec(), (0,) * 32))


# Restricted spaces.


def test_a_restricted_space_holds_what_is_allowed() -> None:
    space = DARTSSpace(nodes=2, channels=4, cells=3)
    masks = {name: torch.zeros(5, 8, dtype=torch.bool) for name in space.cell_types}
    masks["normal"][:, 3] = masks["normal"][2:4, 5] = True
    masks["reduce"][:, :] = True
    small = space.restrict(masks)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        architecture = small.sample(generator)
        space.check(architecture)
        assert all(masks["normal"][edge, o] for edge, o in small.chosen(architecture)["normal"])
        near = list(small.neighbours(architecture))
        assert {a for a in space.neighbours(architecture) if _inside(small, a)} == set(near)
    best = small.largest()
    assert [o for _, o in small.chosen(best)["normal"]] == [3, 3, 5, 5]
    outside = space.largest()
    with pytest.raises(ArchitectureError, match=r"takes one of \[3\]"):
        small.check(outside)
    again = DARTSSpace(
        nodes=2, allowed={"normal": [["skip_connect"], ["skip_connect"], ["sep_conv_5x5"], ["sep_conv_5x5"], []]}
    )
    assert again.allowed["normal"].sum() == 4
    assert again.allowed["reduce"].all()


def _inside(space: DARTSSpace, architecture: Architecture) -> bool:
    try:
        space.check(architecture)
    except ArchitectureError:
        return False
    return True


def test_sampling_a_restricted_space_is_uniform() -> None:
    rows = [["skip_connect"], ["skip_connect", "sep_conv_3x3"]]
    more = [["skip_connect"], ["skip_connect", "sep_conv_3x3", "sep_conv_5x5"], ["skip_connect", "none"]]
    space = DARTSSpace(nodes=2, allowed={"normal": rows + more, "reduce": [["skip_connect"]] * 5})
    generator = torch.Generator().manual_seed(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(2800):
        key = space.sample(generator).choices[:8]
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 2 * 7  # node 1: 1 * 3 + 1 * 1 + 3 * 1
    assert min(counts.values()) > 140
    assert max(counts.values()) < 265


def test_wrong_restrictions_are_refused() -> None:
    space = DARTSSpace(nodes=1)
    with pytest.raises(ConfigError, match="leaves node 0 with 1 inputs"):
        space.restrict({"normal": torch.tensor([[True] * 8, [False] * 8])})
    with pytest.raises(ConfigError, match="takes bool masks"):
        space.restrict({"normal": torch.ones(3, 8, dtype=torch.bool)})
    with pytest.raises(ConfigError, match="takes bool masks"):
        space.restrict({"other": torch.ones(2, 8, dtype=torch.bool)})
    narrow = space.restrict({"normal": torch.tensor([[False] * 7 + [True]] * 2)})
    with pytest.raises(ConfigError, match="can only remove"):
        narrow.restrict({"normal": torch.ones(2, 8, dtype=torch.bool)})
    with pytest.raises(ConfigError, match="conv_9x9"):
        DARTSSpace(nodes=1, allowed={"normal": [["conv_9x9"], list(OPERATIONS)]})
