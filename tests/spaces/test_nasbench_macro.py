"""The space of NAS-Bench-Macro: its networks against the published layout, counted by hand, and its names."""

from itertools import product

import pytest
import torch

from lightning_nas.errors import ArchitectureError
from lightning_nas.metrics.cost import macs, parameters
from lightning_nas.spaces import NASBenchMacroSpace

SPACE = NASBenchMacroSpace()
IMAGES = {"num_classes": 10, "image_shape": (3, 32, 32)}


def counted(name: str) -> tuple[int, int]:
    """Parameters and multiply-accumulates, from the sizes in the paper."""
    side, width = 32, 32
    weights, norms = [27 * width], [width]
    work = [27 * width * side * side]
    for place, digit in enumerate(name):
        before, stride = width, 1
        if place in (0, 2, 5):
            width, side, stride = 2 * width, side // 2, 2
        if digit == "0" and stride == 1:
            continue
        if digit == "0":
            made, sizes, outs = [before * width], [side], [width]
        else:
            middle, kernel = before * {"1": 3, "2": 6}[digit], {"1": 3, "2": 5}[digit]
            made = [before * middle, kernel * kernel * middle, middle * width]
            sizes, outs = [side * stride, side, side], [middle, middle, width]
        weights += made
        norms += outs
        work += [number * size * size for number, size in zip(made, sizes, strict=True)]
    weights.append(width * 1280)
    norms.append(1280)
    work.append(width * 1280 * side * side)
    return sum(weights) + 2 * sum(norms) + 1280 * 10 + 10, sum(work) + 1280 * 10


@pytest.mark.parametrize("name", ["00000000", "11111111", "22222222", "12010210", "02101002"])
def test_networks_have_the_published_layers(name: str) -> None:
    network = SPACE.network(SPACE.parse(name), **IMAGES)
    assert (parameters(network), macs(network, (3, 32, 32))) == counted(name)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert network(torch.randn(2, 3, 9, 11)).shape == (2, 10)


def test_a_block_adds_its_input_where_the_shape_stays() -> None:
    network = SPACE.network(SPACE.parse("11111111"), **IMAGES)
    assert [block.residual for block in network.blocks] == [place not in (0, 2, 5) for place in range(8)]
    block, x = network.blocks[1].eval(), torch.randn(2, 64, 4, 4)
    torch.testing.assert_close(block(x), x + block.layers(x))


def test_equal_networks_have_equal_keys_and_features() -> None:
    """By the rule with which the published results are collected."""
    every = [SPACE.architecture(choices) for choices in product(range(3), repeat=8)]
    keys = {SPACE.key(architecture) for architecture in every}
    assert (len(every), len(keys)) == (6561, 3969)
    first, second = SPACE.parse("10010201"), SPACE.parse("10010210")
    assert SPACE.key(first) == SPACE.key(second) == "10010210"
    assert SPACE.features(first) == SPACE.features(second) != SPACE.features(SPACE.parse("01010210"))
    assert SPACE.key(SPACE.parse("01002001")) == "01020010"  # the first block of a stage changes the shape
    x = torch.randn(2, 3, 16, 16)
    networks = [SPACE.network(each, **IMAGES).eval() for each in (first, second)]
    networks[1].load_state_dict(dict(zip(networks[1].state_dict(), networks[0].state_dict().values(), strict=True)))
    torch.testing.assert_close(networks[0](x), networks[1](x))


@pytest.mark.parametrize("name", ["", "1111111", "111111113", "11111113", "1:1:1:1:1:1:1:1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ArchitectureError, match="is not a name such as 12211222"):
        SPACE.parse(name)
