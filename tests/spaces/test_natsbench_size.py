"""The size search space of NATS-Bench: published numbers of parameters, and names."""

import pytest
import torch
from torch import nn

from lightning_nas.errors import ArchitectureError
from lightning_nas.metrics.cost import parameters
from lightning_nas.spaces import NATSBenchSizeSpace

SPACE = NATSBenchSizeSpace()
PUBLISHED = {"8:8:8:8:8": 11_714, "8:8:16:40:40": 107_826, "64:64:64:64:64": 713_674}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_number_of_parameters(name: str) -> None:
    network = SPACE.network(SPACE.parse(name), num_classes=10, image_shape=(3, 32, 32))
    assert parameters(network) == PUBLISHED[name]
    for shape in ((2, 3, 32, 32), (2, 3, 9, 11)):
        assert network(torch.randn(shape)).shape == (2, 10)


def test_layers_have_their_widths_and_halve_the_images_twice() -> None:
    network = SPACE.network(SPACE.parse("8:16:24:32:40"), num_classes=7, image_shape=(1, 16, 16))
    x, shapes = network.stem(torch.randn(2, 1, 16, 16)), []
    for layer in network.layers:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(8, 16, 16), (16, 8, 8), (24, 8, 8), (32, 4, 4), (40, 4, 4)]


def test_the_cell_sums_its_edges() -> None:
    cell: nn.Module = SPACE.network(SPACE.largest(), num_classes=2, image_shape=(3, 8, 8)).layers[2].eval()
    x = torch.randn(2, 64, 4, 4)
    first = cell.edge_10(x)  # type: ignore[operator]
    second = cell.edge_20(x) + cell.edge_21(first)  # type: ignore[operator]
    torch.testing.assert_close(cell(x), x + cell.edge_31(first) + cell.edge_32(second))  # type: ignore[operator]


def test_names_and_features() -> None:
    architecture = SPACE.parse("8:16:32:48:64")
    assert SPACE.text(architecture) == "8:16:32:48:64"
    assert SPACE.widths(architecture) == [8, 16, 32, 48, 64]
    assert SPACE.features(architecture)["widths"]["2"] == 0.5
    for name in ("", "8:8:8:8", "8:8:8:8:9", "8,8,8,8,8"):
        with pytest.raises(ArchitectureError, match="is not a name such as 8:16:32:48:64"):
            SPACE.parse(name)
