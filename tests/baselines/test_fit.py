"""Residual networks that cost as much as another network."""

from pathlib import Path

import pytest
import torch

from lightning_nas.baselines import CIFARResNet, FittedResNet, fit_resnet
from lightning_nas.baselines.fit import count_costs
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.files.artifacts import write_json
from lightning_nas.metrics.cost import macs, parameters


@pytest.mark.parametrize(
    ("shape", "blocks", "width", "stem"),
    [((1, 8, 8), 1, 5, "cifar"), ((3, 9, 7), 2, 3, "cifar"), ((3, 33, 66), 1, 4, "imagenet")],
)
def test_costs_by_the_layers_are_those_of_the_network(
    shape: tuple[int, int, int], blocks: int, width: int, stem: str
) -> None:
    network = CIFARResNet(shape, 7, blocks, width, stem)
    counted = count_costs(shape, 7, blocks, width, stem)
    assert counted == {"parameters": parameters(network), "macs": macs(network, shape)}


@pytest.mark.parametrize("cost", ["macs", "parameters"])
@pytest.mark.parametrize("target", [3e3, 1e5, 4.1e7])
def test_the_fitted_network_comes_close_and_never_exceeds(cost: str, target: float) -> None:
    size = fit_resnet(cost, target, (1, 8, 8), 10)
    if size is None:
        assert count_costs((1, 8, 8), 10, 1, 1, "cifar")[cost] > target
        return
    blocks, width = size["blocks"], size["width"]
    assert isinstance(blocks, int)
    assert isinstance(width, int)
    assert count_costs((1, 8, 8), 10, blocks, width, "cifar")[cost] <= target
    assert count_costs((1, 8, 8), 10, blocks, width + 1, "cifar")[cost] > target
    assert blocks == 1 or width >= 4 * blocks


def test_the_family_of_the_paper_is_found_from_its_own_size() -> None:
    assert fit_resnet("parameters", 269_722, (3, 32, 32), 10) == {"blocks": 3, "width": 16, "stem": "cifar"}
    assert parameters(CIFARResNet((3, 32, 32), 10)) == 269_722  # 0.27 M in table 6
    size = fit_resnet("macs", 6e8, (3, 224, 224), 10)
    assert size is not None
    assert size["stem"] == "imagenet"


def test_constraints_are_kept_and_may_leave_nothing() -> None:
    free = fit_resnet("macs", 1e6, (1, 8, 8), 10)
    assert free is not None
    bound = {"parameters": 5000.0}
    limited = fit_resnet("macs", 1e6, (1, 8, 8), 10, constraints=bound)
    assert limited is not None
    assert parameters(CIFARResNet((1, 8, 8), 10, **limited)) <= 5000 < parameters(CIFARResNet((1, 8, 8), 10, **free))  # type: ignore[arg-type]
    assert fit_resnet("macs", 1e6, (1, 8, 8), 10, constraints={"parameters": 100}) is None
    measured = fit_resnet(
        *("macs", 1e6, (1, 8, 8), 10),
        constraints={"latency_ms": 4.0},
        measure=lambda network: {"latency_ms": float(parameters(network) > 500) + 3.5},
    )
    assert measured == {"blocks": 1, "width": 1, "stem": "cifar"}
    with pytest.raises(ConfigError, match="cost is 'latency_ms'"):
        fit_resnet("latency_ms", 1.0, (1, 8, 8), 10)


def test_a_size_is_read_from_its_file(tmp_path: Path) -> None:
    path = write_json(tmp_path / "network.json", {"size": {"blocks": 1, "width": 2, "stem": "cifar"}})
    assert FittedResNet((1, 8, 8), 3, str(path))(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    write_json(path, {"size": {"blocks": "1", "width": 2, "stem": "cifar"}})
    with pytest.raises(ArtifactError, match="blocks, width and stem were expected"):
        FittedResNet((1, 8, 8), 3, str(path))
